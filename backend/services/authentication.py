"""From a presented credential to a verified caller."""

from dataclasses import dataclass
from hashlib import sha256

from backend.domain.admission import Epochs
from backend.domain.api_keys import Environment, KeyGrant, PresentedKey, VerifiedKey, parse_key
from backend.domain.callers import ActorKind, Caller, PlatformCaller, PredictCaller
from backend.domain.clock import Clock
from backend.domain.errors import Forbidden, InsufficientScope, TenantSuspended, TooMany, Unauthenticated
from backend.domain.ids import TenantId, UserId
from backend.domain.limits import RateRule
from backend.domain.scopes import PLATFORM_ROLE_SCOPES, ROLE_SCOPES
from backend.domain.service_accounts import ServiceAccount, is_service_account
from backend.domain.tenants import Tenant, TenantStatus, User
from backend.services.access_claims import verified_claims
from backend.services.ports import (
    AccessClaims,
    KeyDirectory,
    KeyHasher,
    KeyUse,
    Store,
    StrangerThrottle,
    TokenIssuer,
    UnitOfWork,
)

MOST_RECENT = 10_000
"""Credentials that are remembered; beyond it all are forgotten, and verify once more."""


@dataclass(frozen=True, slots=True)
class RecentCaller:
    """The cached copy of a key against which a credential has verified, and the caller that it made."""

    grant: KeyGrant
    caller: PredictCaller
    is_good_always: bool
    """Whether that copy may be used at any time and from anywhere."""


class KeyAuthenticator:
    """Verifies API keys. Form and checksum cost no I/O; the look-up is cached, and use is noted off the path."""

    def __init__(
        self, *, keys: KeyDirectory, strangers: StrangerThrottle, hasher: KeyHasher, use: KeyUse, clock: Clock
    ) -> None:
        self._keys = keys
        self._strangers = strangers
        self._hasher = hasher
        self._use = use
        self._clock = clock
        self._recent: dict[bytes, RecentCaller] = {}

    async def authenticate(self, credential: str, address: str | None, *, fresh: bool = False) -> VerifiedKey:
        """Return what stands behind a key.

        By default as it was cached: of predictions admission knows what has changed since. Whoever does not ask
        admission wants it ``fresh``, which costs a look at the store.

        Raises:
            Unauthenticated: malformed, unknown or wrong; or, once the secret has verified, expired or revoked.
            TenantSuspended, AddressNotAllowed: the key is right and may not be used.
            TooMany: too many unknown keys came from the address.
        """
        presented = parse_key(credential)
        if presented is None:
            raise Unauthenticated
        cached = await self._find(presented.lookup_id, address or "")
        if cached is None:
            raise Unauthenticated
        try:
            verified = self._accepted(presented, cached, address)
        except (Unauthenticated, Forbidden):
            # The cached copy may be from before a rotation, or from before the key was widened.
            verified = self._accepted(presented, await self._keys.recheck(presented.lookup_id), address)
        if fresh:
            # Only now: nobody who does not know the secret can make the store be asked each time.
            verified = self._accepted(presented, await self._keys.reload(presented.lookup_id), address)
        self._use.note(verified.grant.key.id, verified.generation)
        return verified

    def _accepted(self, presented: PresentedKey, grant: KeyGrant | None, address: str | None) -> VerifiedKey:
        verified = self._verify(presented, grant)
        if verified is None:
            raise Unauthenticated
        verified.grant.require_usable(self._clock.now(), address)
        return verified

    async def predict_caller(self, credential: str, address: str | None, *, fresh: bool = False) -> PredictCaller:
        """Return the caller of predictions behind a key.

        A secret that has verified against the cached copy of its key need not verify against that same copy again:
        what is remembered of it is a digest, and is forgotten with the copy.

        Raises:
            ForecourtError: as :meth:`authenticate`.
        """
        digest = sha256(credential.encode()).digest()
        if not fresh:
            known = self._recent.get(digest)
            if known is not None and known.caller.address == address and self.still_holds(known):
                return known.caller
        verified = await self.authenticate(credential, address, fresh=fresh)
        grant, generation = verified.grant, verified.generation
        caller = PredictCaller.from_key(grant, address=address, fresh=fresh, generation=generation)
        if generation == grant.key.generation and not fresh:
            if len(self._recent) >= MOST_RECENT:
                self._recent.clear()
            self._recent[digest] = RecentCaller(grant, caller, grant.is_unbounded)
        return caller

    def recent(self, credential: str, caller: PredictCaller) -> RecentCaller | None:
        """Return what is remembered of a credential and the caller that it has just made."""
        known = self._recent.get(sha256(credential.encode()).digest())
        return known if known is not None and known.caller is caller else None

    def still_holds(self, known: RecentCaller) -> bool:
        """Whether the key is the copy that the secret verified against, and may be used now; notes its use then."""
        grant = known.grant
        key = grant.key
        if self._keys.cached(key.lookup_id) is not grant:
            return False
        if not known.is_good_always:
            try:
                grant.require_usable(self._clock.now(), known.caller.address)
            except (Unauthenticated, Forbidden):
                # Said again by whoever looks at the key anew: it may have been widened meanwhile.
                return False
        self._use.note(key.id, known.caller.generation)
        return True

    async def _find(self, lookup_id: str, address: str) -> KeyGrant | None:
        if self._keys.holds(lookup_id):
            return await self._keys.find(lookup_id)
        wait_s = self._strangers.enter(address)
        if wait_s:
            raise TooMany("Too many unknown API keys came from this address.", retry_after_s=wait_s)
        grant = await self._keys.find(lookup_id)
        if grant is not None:
            self._strangers.leave(address)
        return grant

    def _verify(self, presented: PresentedKey, grant: KeyGrant | None) -> VerifiedKey | None:
        """Compare with the key's secret, then during an overlap with the one before."""
        if grant is None or grant.key.environment is not presented.environment:
            return None
        key = grant.key
        if self._hasher.verify(presented.secret, key.secret_hash, key.pepper_version):
            return VerifiedKey(grant, key.generation)
        previous = None if key.previous is None else key.overlap_at(self._clock.now())
        if previous and self._hasher.verify(presented.secret, previous.secret_hash, previous.pepper_version):
            return VerifiedKey(grant, key.generation - 1)
        return None


def caller_from_key(grant: KeyGrant) -> Caller:
    """Return a verified key as a caller of the management routes."""
    key = grant.key
    return Caller(
        kind=ActorKind.API_KEY,
        credential_id=key.id,
        tenant_id=key.tenant_id,
        scopes=key.scopes,
        models=key.models,
        allowed_cidrs=key.allowed_cidrs,
        expires_at=key.expires_at,
        rate_per_minute=key.rate_per_minute,
        monthly_quota=key.monthly_quota,
        is_test_only=key.environment is Environment.TEST,
    )


class TokenAuthenticator:
    """Verifies access tokens, and that what they were granted for still holds."""

    def __init__(self, *, tokens: TokenIssuer, store: Store, clock: Clock) -> None:
        self._tokens = tokens
        self._store = store
        self._clock = clock

    async def authenticate(self, token: str) -> Caller | PlatformCaller:
        """Return the caller behind a token, with the scopes that its role or account has now.

        Raises:
            Unauthenticated: the token is not right or was revoked, or its login, user, seat or service account is gone.
            TenantSuspended: the seat's tenant is suspended.
        """
        claims = await verified_claims(self._tokens, token)
        async with self._store.unit_of_work(read_only=True) as unit:
            if claims.tenant_id is None:
                return await self._platform_caller(unit, claims)
            return (await self._caller(unit, claims, claims.tenant_id))[0]

    async def predict_caller(self, token: str, address: str | None) -> PredictCaller:
        """Return a user or a service account as a caller of predictions, under the tenant's own limits as they are now.

        Raises:
            InsufficientScope: the token belongs to no tenant.
            Unauthenticated, TenantSuspended: as above.
        """
        claims = await verified_claims(self._tokens, token)
        async with self._store.unit_of_work(read_only=True) as unit:
            if claims.tenant_id is None:
                await self._platform_caller(unit, claims)
                raise InsufficientScope("This login is above all tenants: it has no limits to predict under.")
            caller, tenant = await self._caller(unit, claims, claims.tenant_id)
            subscription = (await unit.subscriptions.standing(tenant.id, self._clock.now())).current
        if subscription is None:
            raise Unauthenticated
        plan = subscription.plan
        return PredictCaller(
            tenant_id=caller.tenant_id,
            credential_id=caller.credential_id,
            lookup_id=None,
            environment=Environment.LIVE,
            scopes=caller.scopes,
            models=None,
            plan=plan,
            rates=(RateRule(scope="tenant", subject=tenant.id, per_window=tenant.limits.rate_under(plan)),),
            model_rates=tenant.limits.model_rules(plan),
            quotas=(tenant.limits.quota_under(plan, tenant.id),),
            epochs=Epochs(tenant=tenant.version, credential=0, fresh=True),
            enforcement=subscription.enforcement,
            address=address,
        )

    async def _caller(self, unit: UnitOfWork, claims: AccessClaims, tenant_id: TenantId) -> tuple[Caller, Tenant]:
        tenant = await unit.tenants.get(tenant_id)
        if tenant is None:
            raise Unauthenticated
        if is_service_account(claims.subject):
            account = await self._live_account(unit, claims)
            caller = Caller(
                kind=ActorKind.SERVICE_ACCOUNT,
                credential_id=account.id,
                tenant_id=tenant.id,
                scopes=claims.scopes & account.scopes,
            )
        else:
            user = await self._live_user(unit, claims)
            seat = await unit.memberships.find(tenant.id, user.id)
            if seat is None:
                raise Unauthenticated
            caller = Caller(
                kind=ActorKind.USER,
                credential_id=user.id,
                tenant_id=tenant.id,
                scopes=claims.scopes & ROLE_SCOPES[seat.role],
                role=seat.role,
                session_id=claims.session_id,
            )
        if tenant.status is TenantStatus.SUSPENDED:
            raise TenantSuspended
        return caller, tenant

    async def _platform_caller(self, unit: UnitOfWork, claims: AccessClaims) -> PlatformCaller:
        if is_service_account(claims.subject):
            account = await self._live_account(unit, claims)
            kind, role = ActorKind.SERVICE_ACCOUNT, account.platform_role
        else:
            user = await self._live_user(unit, claims)
            kind, role = ActorKind.USER, user.platform_role
        if role is None:
            raise Unauthenticated
        return PlatformCaller(
            kind=kind,
            credential_id=claims.subject,
            role=role,
            scopes=claims.scopes & PLATFORM_ROLE_SCOPES[role],
            session_id=claims.session_id,
        )

    async def _live_user(self, unit: UnitOfWork, claims: AccessClaims) -> User:
        user = await unit.users.get(UserId(claims.subject))
        login = await unit.sessions.of_token(claims.session_id, claims.token_id) if claims.session_id else None
        if user is None or user.disabled or login is None or login.user_id != user.id:
            raise Unauthenticated
        if not login.is_alive(self._clock.now()):
            raise Unauthenticated
        return user

    @staticmethod
    async def _live_account(unit: UnitOfWork, claims: AccessClaims) -> ServiceAccount:
        account = await unit.service_accounts.by_token_of_all_tenants(claims.subject, claims.token_id)
        if account is None or account.tenant_id != claims.tenant_id or account.generation != claims.generation:
            raise Unauthenticated
        return account
