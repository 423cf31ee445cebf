"""What the operator does with tenants and people."""

from dataclasses import dataclass, replace
from typing import Any

from backend.domain.audit import OPERATOR, PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import TenantId, UserId, new_id
from backend.domain.passwords import require_strong
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
from backend.domain.usage_pushes import CUSTOMER_ID, BillerCustomer
from backend.services.plan_choice import chosen_plan, seed
from backend.services.ports import Admission, CursorCodec, PasswordHasher, UnitOfWork
from backend.services.ports.store import TenantFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantPage:
    """Tenants, newest first."""

    tenants: tuple[Tenant, ...]
    next_cursor: str | None


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
        await seed(self._unit.plans)

    async def create(self, *, slug: str, name: str, plan: str) -> Tenant:
        """Make a tenant on a plan, whose name alone means its newest version.

        Raises:
            Invalid: the slug or the plan makes no sense.
            AlreadyExists: the slug is taken.
        """
        if not SLUG_PATTERN.fullmatch(slug):
            problem = FieldError("/slug", "must be 1-63 lower-case letters, digits and inner dashes")
            raise Invalid(errors=(problem,))
        bought = await chosen_plan(self._unit.plans, plan)
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
        version = await self._unit.subscriptions.start(tenant.id, bought.id, now)
        await self._record(
            tenant.id, Action.TENANT_CREATED, tenant.id, after={"slug": slug, "name": name, "plan": plan}
        )
        return replace(tenant, version=version)

    async def get(self, tenant_id: str) -> Tenant:
        """Return one tenant.

        Raises:
            NotFound: no tenant has this id.
        """
        tenant = await self._unit.tenants.get(TenantId(tenant_id))
        if tenant is None:
            raise NotFound
        return tenant

    async def page(self, cursors: CursorCodec, wanted: TenantFilter, *, cursor: str | None, limit: int) -> TenantPage:
        """Return a page of all tenants."""
        purpose = f"tenants:{wanted}"
        after = cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.tenants.page_of_all_tenants(wanted, after=after, limit=limit + 1)
        next_cursor = cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        return TenantPage(tenants=tuple(found[:limit]), next_cursor=next_cursor)

    async def set_status(self, slug: str, status: TenantStatus) -> Tenant:
        """Suspend or resume the tenant of a slug.

        Raises:
            NotFound: no tenant has this slug.
        """
        return await self.set_status_of((await self.by_slug(slug)).id, status)

    async def set_status_of(self, tenant_id: str, status: TenantStatus) -> Tenant:
        """Suspend or resume a tenant, with effect on the next request. What is so already changes nothing.

        Raises:
            NotFound: no tenant has this id.
        """
        await self._unit.tenants.hold(TenantId(tenant_id))
        tenant = await self.get(tenant_id)
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

    async def set_biller_customer(self, slug: str, customer_id: str | None) -> BillerCustomer | None:
        """Set under which id an outside biller knows a tenant; ``None`` ends the pushes of its usage.

        Raises:
            NotFound: there is no such tenant.
            Invalid: it can be nobody's id.
        """
        tenant = await self._unit.tenants.by_slug(slug)
        if tenant is None:
            raise NotFound("There is no tenant with this slug.")
        return await self.set_biller_customer_of(tenant.id, customer_id)

    async def set_biller_customer_of(self, tenant_id: str, customer_id: str | None) -> BillerCustomer | None:
        """The same by the tenant's id."""
        if customer_id is not None and not CUSTOMER_ID.fullmatch(customer_id):
            raise Invalid(errors=(FieldError("/customer_id", "is not 1-200 visible ASCII characters"),))
        tenant = await self.get(tenant_id)
        before = await self._unit.biller_customers.get(tenant.id)
        if (before.customer_id if before else None) != customer_id:
            await self._unit.biller_customers.set(tenant.id, customer_id)
            await self._record(
                tenant.id,
                Action.BILLER_CUSTOMER_SET,
                tenant.id,
                before={"customer_id": before.customer_id if before else None},
                after={"customer_id": customer_id},
            )
        return await self._unit.biller_customers.get(tenant.id)

    async def biller_customer_of(self, tenant_id: str) -> BillerCustomer | None:
        """Return under which id an outside biller knows a tenant.

        Raises:
            NotFound: no tenant has this id.
        """
        return await self._unit.biller_customers.get((await self.get(tenant_id)).id)

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
