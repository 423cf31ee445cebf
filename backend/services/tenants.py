"""What the operator does with tenants and people."""

from dataclasses import replace
from typing import Any

from backend.domain.audit import OPERATOR, PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import TenantId, UserId, new_id
from backend.domain.passwords import require_strong
from backend.domain.plans import seed_plans
from backend.domain.scopes import PlatformRole, Role
from backend.domain.tenants import (
    SLUG_PATTERN,
    Membership,
    Tenant,
    TenantStatus,
    User,
    is_email,
    normalise_email,
)
from backend.services.ports import Admission, PasswordHasher, UnitOfWork


class TenantService:
    """Creates, suspends and resumes tenants, and seats people in them."""

    def __init__(
        self,
        *,
        unit: UnitOfWork,
        passwords: PasswordHasher,
        admission: Admission,
        clock: Clock,
        actor: Actor = OPERATOR,
    ) -> None:
        self._unit = unit
        self._passwords = passwords
        self._admission = admission
        self._clock = clock
        self._actor = actor

    async def seed_plans(self) -> None:
        """Store the plans every installation begins with; those already there stay."""
        for plan in seed_plans():
            await self._unit.plans.add(plan)

    async def create(self, *, slug: str, name: str, plan: str) -> Tenant:
        """Make a tenant on the newest version of a plan.

        Raises:
            Invalid: the slug or the plan makes no sense.
            AlreadyExists: the slug is taken.
        """
        if not SLUG_PATTERN.fullmatch(slug):
            problem = FieldError("/slug", "must be 1-63 lower-case letters, digits and inner dashes")
            raise Invalid(errors=(problem,))
        bought = await self._unit.plans.newest(plan)
        if bought is None:
            raise Invalid(errors=(FieldError("/plan", "is not the name of a plan"),))
        now = self._clock.now()
        tenant = Tenant(
            id=TenantId(new_id("ten")),
            slug=slug,
            name=name,
            status=TenantStatus.ACTIVE,
            version=1,
            created_at=now,
        )
        await self._unit.tenants.add(tenant)
        await self._unit.subscriptions.start(tenant.id, bought.id, now)
        await self._record(
            tenant.id, Action.TENANT_CREATED, tenant.id, after={"slug": slug, "name": name, "plan": plan}
        )
        return tenant

    async def set_status(self, slug: str, status: TenantStatus) -> Tenant:
        """Suspend or resume a tenant, with effect on the next request.

        Raises:
            NotFound: no tenant has this slug.
        """
        tenant = await self.by_slug(slug)
        if tenant.status is status:
            return tenant
        changed = await self._unit.tenants.set_status(tenant.id, status)
        suspended = status is TenantStatus.SUSPENDED
        await self._record(
            tenant.id,
            Action.TENANT_SUSPENDED if suspended else Action.TENANT_RESUMED,
            tenant.id,
            before={"status": tenant.status.value},
            after={"status": status.value},
        )
        self._unit.after_commit(lambda: self._admission.announce(changed.id, None, changed.version))
        return changed

    async def by_slug(self, slug: str) -> Tenant:
        """Return the tenant of a slug.

        Raises:
            NotFound: no tenant has this slug.
        """
        tenant = await self._unit.tenants.by_slug(slug)
        if tenant is None:
            raise NotFound("There is no tenant with this slug.")
        return tenant

    async def add_user(self, *, email: str, password: str, platform_role: PlatformRole | None = None) -> User:
        """Make a user.

        Raises:
            Invalid: the address is none; WeakPassword: the password will not do.
            AlreadyExists: the address is taken.
        """
        if not is_email(email):
            raise Invalid(errors=(FieldError("/email", "is not an e-mail address"),))
        require_strong(password, context=(email,))
        user = User(
            id=UserId(new_id("usr")),
            email=normalise_email(email),
            password_hash=await self._passwords.hash(password),
            disabled=False,
            platform_role=platform_role,
            created_at=self._clock.now(),
        )
        await self._unit.users.add(user)
        await self._record(
            PLATFORM_CHAIN,
            Action.USER_CREATED,
            user.id,
            after={"email": user.email, "platform_role": platform_role.value if platform_role else None},
        )
        return user

    async def set_disabled(self, email: str, *, disabled: bool) -> User:
        """Lock a user out from the next request on, or let them in again. Their logins do not come back.

        Raises:
            NotFound: no user has this address.
        """
        user = await self._unit.users.by_email(normalise_email(email))
        if user is None:
            raise NotFound("There is no user with this address.")
        if user.disabled is disabled:
            return user
        await self._unit.users.set_disabled(user.id, disabled=disabled)
        if disabled:
            await self._unit.sessions.revoke_all(user.id, self._clock.now())
        await self._record(
            PLATFORM_CHAIN,
            Action.USER_DISABLED if disabled else Action.USER_ENABLED,
            user.id,
            before={"disabled": user.disabled},
            after={"disabled": disabled},
        )
        return replace(user, disabled=disabled)

    async def seat(self, tenant_id: TenantId, user_id: UserId, role: Role) -> Membership:
        """Give a user a seat in a tenant.

        Raises:
            AlreadyExists: the user has one.
        """
        membership = Membership(
            id=new_id("mem"),
            tenant_id=tenant_id,
            user_id=user_id,
            role=role,
            created_at=self._clock.now(),
        )
        await self._unit.memberships.add(tenant_id, membership)
        await self._record(
            tenant_id, Action.MEMBER_ADDED, membership.id, after={"user_id": user_id, "role": role.value}
        )
        return membership

    async def _record(
        self,
        chain: TenantId,
        action: Action,
        target_id: str,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        entry = AuditEntry(
            actor=self._actor, action=action, target_id=target_id, before=before or {}, after=after or {}
        )
        await self._unit.audit.record(chain, entry)
