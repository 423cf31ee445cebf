"""Logins, as those who are logged in see and end them; and token revocation (RFC 7009)."""

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.callers import ActorKind, Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound, Unauthenticated
from backend.domain.ids import UserId
from backend.domain.service_accounts import is_service_account
from backend.domain.sessions import Session
from backend.services.access_claims import verified_claims
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
        """End the login that a refresh token belongs to, or an access token alone: a person's or a program's.

        Nothing is said of a token that is unknown, or over. Whoever holds one may end it: it is theirs, or stolen.
        """
        try:
            claims = await verified_claims(self._tokens, token)
        except Unauthenticated:
            await self._end_login_of(token, address, request_id)
            return
        async with self._store.unit_of_work() as unit:
            if not await unit.revoked_tokens.add(claims.token_id, claims.expires_at):
                return
            kind = ActorKind.SERVICE_ACCOUNT if is_service_account(claims.subject) else ActorKind.USER
            actor = Actor(kind=kind, id=claims.subject, address=address, request_id=request_id)
            entry = AuditEntry(actor=actor, action=Action.ACCESS_TOKEN_REVOKED, target_id=claims.token_id)
            await unit.audit.record(claims.tenant_id or PLATFORM_CHAIN, entry)

    async def _end_login_of(self, refresh_token: str, address: str, request_id: str) -> None:
        async with self._store.unit_of_work() as unit:
            presented = await unit.sessions.token_by_hash(self._refresh_tokens.hash(refresh_token))
            session = await unit.sessions.get(presented.session_id) if presented else None
            if session is not None and session.revoked_at is None:
                actor = Actor(kind=ActorKind.USER, id=session.user_id, address=address, request_id=request_id)
                await self._end(unit, session, actor)

    async def _end(self, unit: UnitOfWork, session: Session, actor: Actor) -> None:
        await unit.sessions.revoke(session.id, self._clock.now())
        entry = AuditEntry(actor=actor, action=Action.SESSION_REVOKED, target_id=session.id)
        await unit.audit.record(session.tenant_id or PLATFORM_CHAIN, entry)
