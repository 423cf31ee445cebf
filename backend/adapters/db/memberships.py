"""Memberships in SQL."""

from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from backend.adapters.db.engine import violated_constraint
from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import MembershipRow, TenantRow, UserRow, table_of
from backend.adapters.db.tenants import tenant_from_row
from backend.adapters.db.users import user_from_row
from backend.domain.errors import AlreadyExists
from backend.domain.ids import TenantId, UserId
from backend.domain.scopes import PlatformRole, Role
from backend.domain.tenants import Membership, Seat, SeatedUser, Tenant, TenantStatus, User


def _membership(row: MembershipRow) -> Membership:
    return Membership(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        user_id=UserId(row.user_id),
        role=Role(row.role),
        created_at=row.created_at,
    )


def _seat(row: Any) -> Seat:
    return Seat(
        tenant_id=TenantId(row.tenant_id),
        tenant_slug=row.slug,
        tenant_status=TenantStatus(row.status),
        role=Role(row.role),
    )


def _seated() -> Select[Any]:
    """Return the question that every login asks: of the tables, since entities would cost more than the question."""
    users, seats, tenants = table_of(UserRow), table_of(MembershipRow), table_of(TenantRow)
    return (
        select(
            users.c.id.label("user_id"),
            users.c.password_hash,
            users.c.disabled,
            users.c.platform_role,
            users.c.created_at,
            seats.c.tenant_id,
            seats.c.role,
            tenants.c.slug,
            tenants.c.status,
        )
        .select_from(users)
        .outerjoin(seats, seats.c.user_id == users.c.id)
        .outerjoin(tenants, tenants.c.id == seats.c.tenant_id)
        .where(users.c.email == bindparam("address"))
        .order_by(seats.c.id)
    )


_SEATED = _seated()


@tenant_rows
class SqlMemberships:
    """Who sits in which tenant."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, membership: Membership) -> None:
        """Store a seat."""
        self._session.add(
            MembershipRow(
                id=membership.id,
                tenant_id=tenant_id,
                user_id=membership.user_id,
                role=membership.role,
                created_at=membership.created_at,
            )
        )
        try:
            await self._session.flush()
        except IntegrityError as error:
            seats = {"uq_memberships_tenant_user", "memberships.tenant_id, memberships.user_id"}
            if violated_constraint(error) in seats:
                raise AlreadyExists("This user is a member already.") from error
            raise

    async def find(self, tenant_id: TenantId, user_id: UserId) -> Membership | None:
        """Return a user's seat."""
        row = await self._session.scalar(
            select(MembershipRow)
            .where(col(MembershipRow.tenant_id) == tenant_id)
            .where(col(MembershipRow.user_id) == user_id)
        )
        return _membership(row) if row else None

    @of_all_tenants
    async def of_user(self, user_id: UserId) -> list[tuple[Membership, Tenant]]:
        """Return a user's seats in all tenants, oldest first."""
        rows = await self._session.execute(
            select(MembershipRow, TenantRow)
            .join(TenantRow, col(TenantRow.id) == col(MembershipRow.tenant_id))
            .where(col(MembershipRow.user_id) == user_id)
            .order_by(col(MembershipRow.id))
        )
        return [(_membership(seat), tenant_from_row(tenant)) for seat, tenant in rows]

    @of_all_tenants
    async def by_email_of_all_tenants(self, email: str) -> SeatedUser | None:
        """Return the user of an address and their seats."""
        rows = (await self._session.execute(_SEATED, {"address": email})).all()
        if not rows:
            return None
        first = rows[0]
        user = User(
            id=UserId(first.user_id),
            email=email,
            password_hash=first.password_hash,
            disabled=first.disabled,
            platform_role=PlatformRole(first.platform_role) if first.platform_role else None,
            created_at=first.created_at,
        )
        return SeatedUser(user=user, seats=tuple(_seat(row) for row in rows if row.role is not None))

    async def get(self, tenant_id: TenantId, membership_id: str) -> tuple[Membership, User] | None:
        """Return one of the tenant's seats and who sits there."""
        found = (
            await self._session.execute(
                select(MembershipRow, UserRow)
                .join(UserRow, col(UserRow.id) == col(MembershipRow.user_id))
                .where(col(MembershipRow.tenant_id) == tenant_id)
                .where(col(MembershipRow.id) == membership_id)
                .execution_options(populate_existing=True)
            )
        ).one_or_none()
        return (_membership(found[0]), user_from_row(found[1])) if found else None

    async def emails_of(self, tenant_id: TenantId, roles: frozenset[Role]) -> tuple[str, ...]:
        """Return the addresses of those who sit there with one of these roles and may sign in, oldest seat first."""
        addresses = await self._session.scalars(
            select(col(UserRow.email))
            .join(MembershipRow, col(MembershipRow.user_id) == col(UserRow.id))
            .where(col(MembershipRow.tenant_id) == tenant_id)
            .where(col(MembershipRow.role).in_([role.value for role in roles]))
            .where(col(UserRow.disabled).is_(False))
            .order_by(col(MembershipRow.id))
        )
        return tuple(addresses)

    async def count_owners(self, tenant_id: TenantId, *, besides: str) -> int:
        """Count the owners who may sign in, without the seat of that id."""
        count = await self._session.scalar(
            select(func.count())
            .select_from(MembershipRow)
            .join(UserRow, col(UserRow.id) == col(MembershipRow.user_id))
            .where(col(MembershipRow.tenant_id) == tenant_id)
            .where(col(MembershipRow.role) == Role.OWNER.value)
            .where(col(MembershipRow.id) != besides)
            .where(col(UserRow.disabled).is_(False))
        )
        return count or 0

    async def set_role(self, tenant_id: TenantId, membership_id: str, role: Role) -> None:
        """Change what a seat may do."""
        await self._session.execute(
            update(MembershipRow)
            .where(col(MembershipRow.tenant_id) == tenant_id)
            .where(col(MembershipRow.id) == membership_id)
            .values(role=role.value)
        )

    async def remove(self, tenant_id: TenantId, membership_id: str) -> None:
        """Take a seat away."""
        await self._session.execute(
            delete(MembershipRow)
            .where(col(MembershipRow.tenant_id) == tenant_id)
            .where(col(MembershipRow.id) == membership_id)
        )

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[tuple[Membership, User]]:
        """Return up to ``limit`` seats with an id above ``after``, oldest first."""
        query = (
            select(MembershipRow, UserRow)
            .join(UserRow, col(UserRow.id) == col(MembershipRow.user_id))
            .where(col(MembershipRow.tenant_id) == tenant_id)
        )
        if after is not None:
            query = query.where(col(MembershipRow.id) > after)
        rows = await self._session.execute(query.order_by(col(MembershipRow.id)).limit(limit))
        return [(_membership(seat), user_from_row(user)) for seat, user in rows]
