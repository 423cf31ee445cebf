"""Logins, as those who are logged in see and end them; and token revocation (RFC 7009)."""

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.callers import ActorKind, Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound, Unauthenticated
from backend.domain.ids import UserId
from backend.domain.sessions import Session
from backend.services.ports import OpaqueTokens, Store, TokenIssuer, UnitOfWork


class SessionService:
    """A person's logins. An ended one's access tokens are refused from the next request on."""

    def __init__(self, *, store: Store, tokens: TokenIssuer, refresh_tokens: OpaqueTokens, clock: Clock) -> None:
        self._store = store
        self._tokens = tokens
        self._refresh_tokens = refresh_tokens
        self._clock = clock

    async def list(self, caller: Caller | PlatformCaller) -> list[Session]:
        """Return the caller's own logins that are alive, in every tenant, the last used first."""
        now = self._clock.now()
        async with self._store.unit_of_work(read_only=True) as unit:
            found = await unit.sessions.of_user(UserId(caller.credential_id))
        return [session for session in found if session.is_alive(now)]

    async def end(self, caller: Caller | PlatformCaller, session_id: str) -> None:
        """End one of the caller's own logins.

        Raises:
            NotFound: no such login, or somebody else's, or it has ended before.
        """
        async with self._store.unit_of_work() as unit:
            session = await unit.sessions.get(session_id)
            if session is None or session.user_id != caller.credential_id or session.revoked_at is not None:
                raise NotFound
            await self._end(unit, session, caller.actor)

    async def revoke_token(self, token: str, *, address: str, request_id: str) -> None:
        """End the login that a refresh token or an access token belongs to; nothing is said of one that is unknown.

        A service account has no login: its tokens end with its secret.
        """
        async with self._store.unit_of_work() as unit:
            session = await self._session_of(unit, token)
            if session is not None and session.revoked_at is None:
                actor = Actor(kind=ActorKind.USER, id=session.user_id, address=address, request_id=request_id)
                await self._end(unit, session, actor)

    async def _session_of(self, unit: UnitOfWork, token: str) -> Session | None:
        presented = await unit.sessions.token_by_hash(self._refresh_tokens.hash(token))
        if presented is not None:
            return await unit.sessions.get(presented.session_id)
        try:
            claims = self._tokens.verify(token)
        except Unauthenticated:
            return None
        return await unit.sessions.get(claims.session_id) if claims.session_id else None

    async def _end(self, unit: UnitOfWork, session: Session, actor: Actor) -> None:
        await unit.sessions.revoke(session.id, self._clock.now())
        entry = AuditEntry(actor=actor, action=Action.SESSION_REVOKED, target_id=session.id)
        await unit.audit.record(session.tenant_id or PLATFORM_CHAIN, entry)
