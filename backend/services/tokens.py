"""The token endpoint: password, refresh and client credentials grants (RFC 6749).

Refresh tokens are rotated in families (RFC 9700). A client's token has no refresh token: it has its secret.
"""

from dataclasses import dataclass

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.callers import ActorKind
from backend.domain.clock import Clock
from backend.domain.errors import OAuthError
from backend.domain.ids import TenantId, new_id
from backend.domain.scopes import PLATFORM_ROLE_SCOPES, ROLE_SCOPES, Scope, format_scopes, parse_scopes
from backend.domain.sessions import REUSE_LEEWAY, RefreshToken, Session
from backend.domain.tenants import SeatedUser, TenantStatus, User, is_email, normalise_email
from backend.services.ports import (
    KeyHasher,
    LoginThrottle,
    OpaqueTokens,
    PasswordHasher,
    Precedence,
    Store,
    TokenIssuer,
    UnitOfWork,
)

PASSWORD_MAX_CHARS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """What the token endpoint answers."""

    access_token: str
    expires_in_s: int
    refresh_token: str | None
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordGrant:
    """A first-party login. ``tenant_slug`` chooses among several seats; the oldest is the default."""

    email: str
    password: str
    scope: str | None
    tenant_slug: str | None
    address: str
    user_agent: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGrant:
    """A program's login: its client id and its secret."""

    client_id: str
    client_secret: str
    scope: str | None


class TokenService:
    """Logs people in and keeps them logged in; and lets programs in."""

    def __init__(
        self,
        *,
        store: Store,
        passwords: PasswordHasher,
        tokens: TokenIssuer,
        refresh_tokens: OpaqueTokens,
        key_hasher: KeyHasher,
        throttle: LoginThrottle,
        precedence: Precedence,
        clock: Clock,
        password_grant: bool,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._tokens = tokens
        self._refresh_tokens = refresh_tokens
        self._key_hasher = key_hasher
        self._throttle = throttle
        self._precedence = precedence
        self._clock = clock
        self._password_grant = password_grant

    async def log_in(self, grant: PasswordGrant) -> TokenGrant:
        """Exchange an address and a password for tokens.

        Raises:
            OAuthError: the same for an unknown address, a wrong password, a disabled user and a missing seat.
            Overloaded: too many are signing in.
        """
        if not self._password_grant:
            raise OAuthError("unsupported_grant_type", "This grant type is not offered.")
        email = normalise_email(grant.email)
        await self._require_no_delay(email, grant.address)
        async with self._precedence.turn():
            # Once more: of many guesses that were in line together, those before this one may have failed.
            await self._require_no_delay(email, grant.address)
            return await self._log_in(email, grant)

    async def _require_no_delay(self, email: str, address: str) -> None:
        wait_s = await self._throttle.delay_s(email, address)
        if wait_s:
            raise OAuthError("slow_down", "Too many failed attempts. Try again later.", retry_after_s=wait_s)

    async def _log_in(self, email: str, grant: PasswordGrant) -> TokenGrant:
        found = await self._verified_user(email, grant.password)
        if found is None:
            await self._throttle.failed(email, grant.address)
            raise _invalid_grant()
        await self._throttle.succeeded(email, grant.address)
        tenant_id, allowed = _seat(found, grant.tenant_slug)
        return await self._open_session(found.user, tenant_id, _narrowed(grant.scope, allowed), grant)

    async def grant_client(self, grant: ClientGrant) -> TokenGrant:
        """Exchange a service account's secret for an access token. The secret has 256 bits: nobody guesses it.

        Raises:
            OAuthError: the client is unknown, deleted or its secret wrong; its tenant is suspended; the scope is wider
                than the account's.
        """
        async with self._store.unit_of_work(read_only=True) as unit:
            account = await unit.service_accounts.by_client_id_of_all_tenants(grant.client_id)
            tenant_id = account.tenant_id if account else None
            tenant = await unit.tenants.get(tenant_id) if tenant_id else None
        if account is None or not self._key_hasher.verify(
            grant.client_secret, account.secret_hash, account.pepper_version
        ):
            raise OAuthError("invalid_client", "The client is unknown, or its secret is wrong.")
        if tenant is not None and tenant.status is TenantStatus.SUSPENDED:
            raise OAuthError("invalid_client", "The client may not sign in at the moment.")
        scopes = _narrowed(grant.scope, account.scopes)
        access_token, expires_in_s = self._tokens.issue(
            subject=account.id,
            tenant_id=account.tenant_id,
            scopes=scopes,
            session_id=None,
            generation=account.generation,
        )
        return TokenGrant(access_token=access_token, expires_in_s=expires_in_s, refresh_token=None, scopes=scopes)

    async def refresh(self, token: str, scope: str | None) -> TokenGrant:
        """Exchange a refresh token for its successor.

        A token that was exchanged before, and not just now by the very same client, has been stolen by one of the
        two: the whole family ends.

        Raises:
            OAuthError: the token is unknown, used, or its login may not go on.
        """
        async with self._store.unit_of_work() as unit:
            grant = await self._refresh(unit, token, scope)
        # Refused only here, outside the unit: the end of a family has to be committed.
        if grant is None:
            raise _invalid_grant()
        return grant

    async def _refresh(self, unit: UnitOfWork, token: str, scope: str | None) -> TokenGrant | None:
        now = self._clock.now()
        presented = await unit.sessions.token_by_hash(self._refresh_tokens.hash(token))
        session = await unit.sessions.get(presented.session_id) if presented else None
        if presented is None or session is None or not session.is_alive(now):
            return None
        if presented.rotated_at is not None and not await self._is_replay_in_leeway(unit, presented):
            await unit.sessions.revoke(session.id, now)
            return None
        allowed = await _still_allowed(unit, session)
        if allowed is None:
            return None
        scopes = _narrowed(scope, allowed)
        successor = self._refresh_tokens.successor(token)
        if presented.rotated_at is None:
            member = self._member(session.id, successor)
            await unit.sessions.add_token(member)
            await unit.sessions.mark_rotated(presented.id, member.id, now)
        await unit.sessions.touch(session.id, now)
        return self._grant(session, scopes, successor)

    async def _verified_user(self, email: str, password: str) -> SeatedUser | None:
        await self._precedence.give_way()
        # No transaction is open while the hash is computed: on SQLite it would hold up the ledger.
        async with self._store.unit_of_work(read_only=True) as unit:
            found = await unit.memberships.by_email_of_all_tenants(email) if is_email(email) else None
        user = found.user if found else None
        await self._precedence.give_way()
        if len(password) > PASSWORD_MAX_CHARS:
            password = ""
        matches = await self._passwords.verify(password, user.password_hash if user else None)
        await self._precedence.give_way()
        if user is None or not matches or user.disabled:
            return None
        if self._passwords.is_outdated(user.password_hash):
            upgraded = await self._passwords.hash(password)
            async with self._store.unit_of_work() as unit:
                await unit.users.set_password_hash(user.id, upgraded)
        return found

    async def _open_session(
        self,
        user: User,
        tenant_id: TenantId | None,
        scopes: frozenset[Scope],
        grant: PasswordGrant,
    ) -> TokenGrant:
        now = self._clock.now()
        session = Session(
            id=new_id("ses"),
            user_id=user.id,
            tenant_id=tenant_id,
            scope=format_scopes(scopes),
            created_at=now,
            last_used_at=now,
            revoked_at=None,
            address=grant.address or None,
            user_agent=grant.user_agent,
        )
        token = self._refresh_tokens.mint()
        member = self._member(session.id, token)
        entry = AuditEntry(
            actor=Actor(kind=ActorKind.USER, id=user.id, address=grant.address or None, request_id=grant.request_id),
            action=Action.SESSION_STARTED,
            target_id=session.id,
            after={"scope": session.scope},
        )
        # Signed before anything is written: on SQLite the ledger stands in line behind whoever writes.
        signed = self._grant(session, scopes, token)
        await self._precedence.give_way()
        async with self._store.unit_of_work() as unit:
            await unit.sessions.start(session, member)
            await unit.audit.record(tenant_id or PLATFORM_CHAIN, entry)
        await self._precedence.give_way()
        return signed

    async def _is_replay_in_leeway(self, unit: UnitOfWork, presented: RefreshToken) -> bool:
        """Whether the successor is still unused and so young that the first answer may have been lost."""
        if presented.rotated_at is None or self._clock.now() - presented.rotated_at > REUSE_LEEWAY:
            return False
        successor = await unit.sessions.token(presented.successor_id or "")
        return successor is not None and successor.rotated_at is None

    def _member(self, session_id: str, token: str) -> RefreshToken:
        return RefreshToken(
            id=new_id("rft"),
            session_id=session_id,
            token_hash=self._refresh_tokens.hash(token),
            created_at=self._clock.now(),
            rotated_at=None,
            successor_id=None,
        )

    def _grant(self, session: Session, scopes: frozenset[Scope], refresh_token: str) -> TokenGrant:
        access_token, expires_in_s = self._tokens.issue(
            subject=session.user_id, tenant_id=session.tenant_id, scopes=scopes, session_id=session.id
        )
        return TokenGrant(
            access_token=access_token, expires_in_s=expires_in_s, refresh_token=refresh_token, scopes=scopes
        )


def _seat(found: SeatedUser, slug: str | None) -> tuple[TenantId | None, frozenset[Scope]]:
    for seat in found.seats:
        if slug in {None, seat.tenant_slug} and seat.tenant_status is TenantStatus.ACTIVE:
            return seat.tenant_id, ROLE_SCOPES[seat.role]
    if found.user.platform_role is not None and slug is None:
        return None, PLATFORM_ROLE_SCOPES[found.user.platform_role]
    raise _invalid_grant()


async def _still_allowed(unit: UnitOfWork, session: Session) -> frozenset[Scope] | None:
    """Return the scopes of the login that its user may still have; ``None`` when the seat is gone."""
    granted = parse_scopes(session.scope) or frozenset()
    user = await unit.users.get(session.user_id)
    if user is None or user.disabled:
        return None
    if session.tenant_id is None:
        return granted & PLATFORM_ROLE_SCOPES[user.platform_role] if user.platform_role else None
    tenant = await unit.tenants.get(session.tenant_id)
    seat = await unit.memberships.find(session.tenant_id, user.id)
    if tenant is None or seat is None or tenant.status is TenantStatus.SUSPENDED:
        return None
    return granted & ROLE_SCOPES[seat.role]


def _narrowed(requested: str | None, allowed: frozenset[Scope]) -> frozenset[Scope]:
    if requested is None or not requested.strip():
        return allowed
    scopes = parse_scopes(requested)
    if scopes is None or not scopes <= allowed:
        raise OAuthError("invalid_scope", "The scope is unknown or exceeds what this login may be granted.")
    return scopes


def _invalid_grant() -> OAuthError:
    return OAuthError("invalid_grant", "The credentials are wrong or may not be used here.")
