"""Tenants, their people, and what they have bought."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.ids import TenantId, UserId
from backend.domain.invitations import Invitation
from backend.domain.limits import Enforcement
from backend.domain.lowered_limits import LoweredLimits
from backend.domain.plans import Plan
from backend.domain.scopes import Role
from backend.domain.statements import PlanSpan
from backend.domain.subscriptions import Standing
from backend.domain.tenants import Membership, SeatedUser, Tenant, TenantStatus, User


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFilter:
    """Which tenants to list; ``None`` is any."""

    status: TenantStatus | None = None
    slug: str | None = None


class Tenants(Protocol):
    """Customers."""

    async def add(self, tenant: Tenant) -> None:
        """Store a new tenant.

        Raises:
            AlreadyExists: the slug is taken.
        """
        ...

    async def get(self, tenant_id: TenantId) -> Tenant | None:
        """Return one tenant."""
        ...

    async def by_slug(self, slug: str) -> Tenant | None:
        """Return the tenant of a slug."""
        ...

    async def list_all(self) -> list[Tenant]:
        """Return every tenant, by slug."""
        ...

    async def page_of_all_tenants(self, wanted: TenantFilter, *, after: str | None, limit: int) -> list[Tenant]:
        """Return up to ``limit`` tenants with an id below ``after``, newest first."""
        ...

    async def set_status(self, tenant_id: TenantId, status: TenantStatus) -> Tenant:
        """Suspend or resume; return the tenant with its new version."""
        ...

    async def lower_limits(self, tenant_id: TenantId, limits: LoweredLimits) -> Tenant:
        """Replace the limits that the tenant puts on itself; return it with its new version."""
        ...

    async def rename(self, tenant_id: TenantId, name: str) -> Tenant:
        """Give the tenant another display name; return it."""
        ...

    async def hold(self, tenant_id: TenantId) -> None:
        """Hold off every other unit that holds the same tenant, until this one ends."""
        ...


class Users(Protocol):
    """People. They belong to the platform; a membership binds them to a tenant."""

    async def add(self, user: User) -> None:
        """Store a new user.

        Raises:
            AlreadyExists: the address is taken.
        """
        ...

    async def get(self, user_id: UserId) -> User | None:
        """Return one user."""
        ...

    async def by_email(self, email: str) -> User | None:
        """Return the user of a normalised address."""
        ...

    async def set_password_hash(self, user_id: UserId, password_hash: str) -> None:
        """Replace the stored hash."""
        ...

    async def list_all(self) -> list[User]:
        """Return every user, by address."""
        ...

    async def set_disabled(self, user_id: UserId, *, disabled: bool) -> None:
        """Lock a user out, or let them in again."""
        ...


class Memberships(Protocol):
    """Who sits in which tenant."""

    async def add(self, tenant_id: TenantId, membership: Membership) -> None:
        """Store a seat.

        Raises:
            AlreadyExists: the user has one in this tenant.
        """
        ...

    async def find(self, tenant_id: TenantId, user_id: UserId) -> Membership | None:
        """Return a user's seat."""
        ...

    async def of_user(self, user_id: UserId) -> list[tuple[Membership, Tenant]]:
        """Return a user's seats in all tenants, oldest first."""
        ...

    async def by_email_of_all_tenants(self, email: str) -> SeatedUser | None:
        """Return the user of a normalised address and their seats, in one look: as fast when there is none."""
        ...

    async def get(self, tenant_id: TenantId, membership_id: str) -> tuple[Membership, User] | None:
        """Return one of the tenant's seats and who sits there."""
        ...

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[tuple[Membership, User]]:
        """Return up to ``limit`` seats with an id above ``after``, oldest first."""
        ...

    async def emails_of(self, tenant_id: TenantId, roles: frozenset[Role]) -> tuple[str, ...]:
        """Return the addresses of those who sit there with one of these roles and may sign in, oldest seat first."""
        ...

    async def count_owners(self, tenant_id: TenantId, *, besides: str) -> int:
        """Count the owners who may sign in, without the seat of that id."""
        ...

    async def set_role(self, tenant_id: TenantId, membership_id: str, role: Role) -> None:
        """Change what a seat may do."""
        ...

    async def remove(self, tenant_id: TenantId, membership_id: str) -> None:
        """Take a seat away."""
        ...


class Invitations(Protocol):
    """Seats that a tenant offers."""

    async def add(self, tenant_id: TenantId, invitation: Invitation) -> None:
        """Store a new invitation."""
        ...

    async def get(self, tenant_id: TenantId, invitation_id: str) -> Invitation | None:
        """Return one of the tenant's invitations."""
        ...

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[Invitation]:
        """Return up to ``limit`` invitations with an id below ``after``, newest first."""
        ...

    async def count_since(self, tenant_id: TenantId, since: datetime) -> int:
        """Count the invitations that the tenant made since an instant."""
        ...

    async def by_token_of_all_tenants(self, token_hash: bytes) -> Invitation | None:
        """Return the invitation of a token, its row locked until the unit ends: only the token says which tenant."""
        ...

    async def revoke(self, tenant_id: TenantId, invitation_id: str, at: datetime) -> None:
        """Take an invitation back; one that was accepted or revoked before stays as it is."""
        ...

    async def revoke_pending(self, tenant_id: TenantId, email: str, at: datetime) -> None:
        """Take back what is still open for an address."""
        ...

    async def mark_accepted(self, tenant_id: TenantId, invitation_id: str, at: datetime) -> None:
        """Note that the seat was taken."""
        ...

    async def forget_before_of_all_tenants(self, instant: datetime) -> int:
        """Delete those that expired before an instant, whatever became of them; return how many."""
        ...


class Plans(Protocol):
    """Plan versions; immutable once stored."""

    async def add(self, plan: Plan) -> None:
        """Store a plan version; the same one again changes nothing.

        Raises:
            AlreadyExists: another one has this id, or this name and version.
        """
        ...

    async def get(self, plan_id: str) -> Plan | None:
        """Return one plan version."""
        ...

    async def version(self, name: str, version: int) -> Plan | None:
        """Return one version of a plan."""
        ...

    async def list(self, name: str | None, *, after: str | None, limit: int) -> list[Plan]:
        """Return up to ``limit`` plan versions with an id below ``after``, newest first."""
        ...

    async def newest(self, name: str) -> Plan | None:
        """Return the newest version of a plan."""
        ...


class Subscriptions(Protocol):
    """Which plan a tenant is on."""

    async def start(
        self, tenant_id: TenantId, plan_id: str, at: datetime, enforcement: Enforcement = Enforcement.ENFORCE
    ) -> int:
        """Put the tenant on a plan from an instant on, in place of whatever it would have been on from then on.

        Returns:
            the tenant's new version, which credentials that were cached before have to notice.
        """
        ...

    async def current_plan(self, tenant_id: TenantId, at: datetime) -> Plan | None:
        """Return the plan the tenant is on at an instant."""
        ...

    async def standing(self, tenant_id: TenantId, at: datetime) -> Standing:
        """Return what the tenant is on at an instant, and what follows."""
        ...

    async def spans(self, tenant_id: TenantId, start: datetime, end: datetime) -> tuple[PlanSpan, ...]:
        """Return which plan versions the tenant was on between two instants, oldest first."""
        ...
