"""Memberships in SQL."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.engine import violated_constraint
from backend.adapters.db.tables import MembershipRow, TenantRow
from backend.adapters.db.tenants import tenant_from_row
from backend.domain.errors import AlreadyExists
from backend.domain.ids import TenantId, UserId
from backend.domain.scopes import Role
from backend.domain.tenants import Membership, Tenant


def _membership(row: MembershipRow) -> Membership:
    return Membership(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        user_id=UserId(row.user_id),
        role=Role(row.role),
        created_at=row.created_at,
    )


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

    async def of_user(self, user_id: UserId) -> list[tuple[Membership, Tenant]]:
        """Return a user's seats in all tenants, oldest first."""
        rows = await self._session.execute(
            select(MembershipRow, TenantRow)
            .join(TenantRow, col(TenantRow.id) == col(MembershipRow.tenant_id))
            .where(col(MembershipRow.user_id) == user_id)
            .order_by(col(MembershipRow.id))
        )
        return [(_membership(seat), tenant_from_row(tenant)) for seat, tenant in rows]
