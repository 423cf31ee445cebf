"""Subscriptions in SQL."""

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.plans import plan_from_row
from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.tables import PlanRow, SubscriptionRow, TenantRow
from backend.domain.ids import TenantId, new_id
from backend.domain.plans import Plan


@tenant_rows
class SqlSubscriptions:
    """Which plan a tenant is on."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def start(self, tenant_id: TenantId, plan_id: str, at: datetime) -> None:
        """Put the tenant on a plan from now on, ending what it was on."""
        await self._session.execute(
            update(SubscriptionRow)
            .where(col(SubscriptionRow.tenant_id) == tenant_id)
            .where(col(SubscriptionRow.ended_at).is_(None))
            .values(ended_at=at)
        )
        # Cached key grants hold the plan: they must be read again.
        await self._session.execute(
            update(TenantRow).where(col(TenantRow.id) == tenant_id).values(version=TenantRow.version + 1)
        )
        self._session.add(
            SubscriptionRow(id=new_id("sub"), tenant_id=tenant_id, plan_id=plan_id, started_at=at, ended_at=None)
        )
        await self._session.flush()

    async def current_plan(self, tenant_id: TenantId) -> Plan | None:
        """Return the plan the tenant is on."""
        row = await self._session.scalar(
            select(PlanRow)
            .join(SubscriptionRow, col(SubscriptionRow.plan_id) == col(PlanRow.id))
            .where(col(SubscriptionRow.tenant_id) == tenant_id)
            .where(col(SubscriptionRow.ended_at).is_(None))
        )
        return plan_from_row(row) if row else None
