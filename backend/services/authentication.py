"""From a presented credential to a verified caller."""

from backend.domain.admission import Epochs
from backend.domain.api_keys import Environment, KeyGrant, parse_key
from backend.domain.callers import ActorKind, Caller, PredictCaller
from backend.domain.clock import Clock
from backend.domain.errors import TenantSuspended, Unauthenticated
from backend.domain.ids import UserId
from backend.domain.limits import QuotaRule, RateRule
from backend.domain.scopes import ROLE_SCOPES
from backend.domain.tenants import Tenant, TenantStatus
from backend.services.ports import AccessClaims, KeyDirectory, KeyHasher, Store, TokenIssuer, UnitOfWork


class KeyAuthenticator:
    """Verifies API keys. Form and checksum cost no I/O; the look-up is cached."""

    def __init__(self, *, keys: KeyDirectory, hasher: KeyHasher, clock: Clock) -> None:
        self._keys = keys
        self._hasher = hasher
        self._clock = clock

    async def authenticate(self, credential: str, address: str | None) -> KeyGrant:
        """Return what stands behind a key.

        Raises:
            Unauthenticated: malformed, unknown or wrong; or, once the secret has verified, expired or revoked.
            TenantSuspended, AddressNotAllowed: the key is right and may not be used.
        """
        presented = parse_key(credential)
        if presented is None:
            raise Unauthenticated
        grant = await self._keys.find(presented.lookup_id)
        if grant is None or grant.key.environment is not presented.environment:
            raise Unauthenticated
        if not self._hasher.verify(presented.secret, grant.key.secret_hash, grant.key.pepper_version):
            raise Unauthenticated
        grant.require_usable(self._clock.now(), address)
        return grant


def caller_from_key(grant: KeyGrant) -> Caller:
    """Return a verified key as a caller of the management routes."""
    key = grant.key
    return Caller(
        kind=ActorKind.API_KEY,
        credential_id=key.id,
        tenant_id=key.tenant_id,
        scopes=key.scopes,
        models=key.models,
    )


class TokenAuthenticator:
    """Verifies access tokens, and that what they were granted for still holds."""

    def __init__(self, *, tokens: TokenIssuer, store: Store, clock: Clock) -> None:
        self._tokens = tokens
        self._store = store
        self._clock = clock

    async def authenticate(self, token: str) -> Caller:
        """Return the tenant caller behind a token, with the scopes that its role has now.

        Raises:
            Unauthenticated: the token is not right, or its login, user or seat is gone.
            TenantSuspended: the seat's tenant is suspended.
        """
        claims = self._tokens.verify(token)
        async with self._store.unit_of_work(read_only=True) as unit:
            return (await self._caller(unit, claims))[0]

    async def predict_caller(self, token: str, address: str | None) -> PredictCaller:
        """Return a user as a caller of predictions: under the tenant's own limits, read for this request."""
        claims = self._tokens.verify(token)
        async with self._store.unit_of_work(read_only=True) as unit:
            caller, tenant = await self._caller(unit, claims)
            plan = await unit.subscriptions.current_plan(tenant.id)
        if plan is None:
            raise Unauthenticated
        return PredictCaller(
            tenant_id=caller.tenant_id,
            credential_id=caller.credential_id,
            lookup_id=None,
            environment=Environment.LIVE,
            scopes=caller.scopes,
            models=None,
            plan=plan,
            rates=(RateRule(scope="tenant", subject=tenant.id, per_window=plan.rate_per_minute),),
            quotas=(QuotaRule(scope="tenant", subject=tenant.id, limit=plan.monthly_quota, mode=plan.quota_mode),),
            epochs=Epochs(tenant=tenant.version, credential=0, fresh=True),
            address=address,
        )

    async def _caller(self, unit: UnitOfWork, claims: AccessClaims) -> tuple[Caller, Tenant]:
        user_id = UserId(claims.subject)
        await self._require_live_login(unit, user_id, claims.session_id)
        if claims.tenant_id is None:
            raise Unauthenticated
        tenant = await unit.tenants.get(claims.tenant_id)
        seat = await unit.memberships.find(claims.tenant_id, user_id)
        if tenant is None or seat is None:
            raise Unauthenticated
        if tenant.status is TenantStatus.SUSPENDED:
            raise TenantSuspended
        caller = Caller(
            kind=ActorKind.USER,
            credential_id=user_id,
            tenant_id=tenant.id,
            scopes=claims.scopes & ROLE_SCOPES[seat.role],
            role=seat.role,
            session_id=claims.session_id,
        )
        return caller, tenant

    async def _require_live_login(self, unit: UnitOfWork, user_id: UserId, session_id: str | None) -> None:
        user = await unit.users.get(user_id)
        login = await unit.sessions.get(session_id) if session_id else None
        if user is None or user.disabled or login is None or login.user_id != user_id:
            raise Unauthenticated
        if not login.is_alive(self._clock.now()):
            raise Unauthenticated
