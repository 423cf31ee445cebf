"""Self sign-up, where the operator allows it: nothing exists before the address has answered.

What a stranger learns is the same whether or not an address has an account: the answer, and the time it takes.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from backend.domain.audit import Action, Actor, AuditEntry
from backend.domain.callers import ActorKind
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, LinkExpired, NotFound
from backend.domain.ids import TenantId, UserId, new_id
from backend.domain.mail import confirmation_mail, known_address_mail
from backend.domain.mailed_tokens import MOST_PER_HOUR, MailedToken, MailPurpose
from backend.domain.passwords import require_strong
from backend.domain.plans import Plan, seed_plans
from backend.domain.scopes import Role
from backend.domain.tenants import (
    Membership,
    Tenant,
    TenantStatus,
    User,
    is_email,
    normalise_email,
    slug_for,
)
from backend.services.ports import OpaqueTokens, Outbox, PasswordHasher, Store, UnitOfWork


class Origin(NamedTuple):
    """Where a request came from."""

    address: str
    request_id: str


class SignUpService:
    """Lets strangers in, as owners of tenants of their own."""

    def __init__(
        self,
        *,
        store: Store,
        tokens: OpaqueTokens,
        passwords: PasswordHasher,
        outbox: Outbox,
        clock: Clock,
        public_url: str,
        offered: bool,
        plan: str,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._outbox = outbox
        self._clock = clock
        self._public_url = public_url
        self._offered = offered
        self._plan = plan

    async def register(self, *, email: str, password: str, tenant_name: str) -> None:
        """Mail a link to an unknown address, or a notice to a known one.

        Raises:
            NotFound: sign-up is not offered. WeakPassword: the password will not do. Invalid: the address is none.
        """
        self._require_offered()
        if not is_email(email):
            raise Invalid(errors=(FieldError("/email", "is not an e-mail address"),))
        email = normalise_email(email)
        require_strong(password, context=(email,))
        # Computed for a known address too: it is what takes the time.
        password_hash = await self._passwords.hash(password)
        now = self._clock.now()
        token = self._tokens.mint()
        async with self._store.unit_of_work() as unit:
            user = await unit.users.by_email(email)
            sent = await unit.mailed_tokens.count_since(MailPurpose.SIGN_UP, email, now - timedelta(hours=1))
            kept = MailedToken.fresh(
                MailPurpose.SIGN_UP,
                email,
                self._tokens.hash(token),
                now,
                user_id=user.id if user else None,
                password_hash=None if user else password_hash,
                tenant_name=None if user else tenant_name,
            )
            await unit.mailed_tokens.add(kept)
        if sent >= MOST_PER_HOUR:
            return
        if user is None:
            self._outbox.post(confirmation_mail(to=email, public_url=self._public_url, token=token))
        else:
            self._outbox.post(known_address_mail(to=email))

    async def confirm(self, *, token: str, address: str, request_id: str) -> Tenant:
        """Make the user and the tenant that a sign-up asked for.

        Raises:
            NotFound: sign-up is not offered.
            LinkExpired: the token is unknown, used, too old, or the address has an account by now.
        """
        self._require_offered()
        now = self._clock.now()
        async with self._store.unit_of_work() as unit:
            asked = await unit.mailed_tokens.by_hash(self._tokens.hash(token))
            if asked is None or asked.password_hash is None or not asked.is_good(MailPurpose.SIGN_UP, now):
                raise LinkExpired
            if await unit.users.by_email(asked.email) is not None:
                raise LinkExpired
            await unit.mailed_tokens.use_up(MailPurpose.SIGN_UP, asked.email, now)
            return await self._found(unit, asked, asked.password_hash, Origin(address, request_id), now)

    async def _found(
        self, unit: UnitOfWork, asked: MailedToken, password_hash: str, origin: Origin, now: datetime
    ) -> Tenant:
        user = User(
            id=UserId(new_id("usr")),
            email=asked.email,
            password_hash=password_hash,
            disabled=False,
            platform_role=None,
            created_at=now,
        )
        name = asked.tenant_name or asked.email
        plan = await self._starting_plan(unit)
        tenant = Tenant(
            id=TenantId(new_id("ten")),
            slug=await _free_slug(unit, name),
            name=name,
            status=TenantStatus.ACTIVE,
            version=1,
            created_at=now,
        )
        seat = Membership(id=new_id("mem"), tenant_id=tenant.id, user_id=user.id, role=Role.OWNER, created_at=now)
        await unit.users.add(user)
        await unit.tenants.add(tenant)
        await unit.subscriptions.start(tenant.id, plan.id, now)
        await unit.memberships.add(tenant.id, seat)
        entry = AuditEntry(
            actor=Actor(kind=ActorKind.USER, id=user.id, address=origin.address, request_id=origin.request_id),
            action=Action.TENANT_CREATED,
            target_id=tenant.id,
            after={"slug": tenant.slug, "name": name, "plan": plan.name, "owner": user.id, "email": user.email},
        )
        await unit.audit.record(tenant.id, entry)
        return tenant

    async def _starting_plan(self, unit: UnitOfWork) -> Plan:
        plan = await unit.plans.newest(self._plan)
        if plan is None:
            for seeded in seed_plans():
                await unit.plans.add(seeded)
            plan = await unit.plans.newest(self._plan)
        if plan is None:
            raise NotFound("Sign-up is not set up completely: its plan does not exist.")
        return plan

    def _require_offered(self) -> None:
        if not self._offered:
            raise NotFound


async def _free_slug(unit: UnitOfWork, name: str) -> str:
    slug = slug_for(name)
    if await unit.tenants.by_slug(slug) is None:
        return slug
    # The end of an id is random.
    return f"{slug}-{new_id('ten')[-8:].lower()}"
