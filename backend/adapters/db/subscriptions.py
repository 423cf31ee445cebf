"""Subscriptions in SQL."""

from datetime import datetime

from sqlalchemy import BindParameter, ColumnElement, delete, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.plans import plan_from_row
from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.tables import PlanRow, SubscriptionRow, TenantRow
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import Enforcement
from backend.domain.plans import Plan
from backend.domain.statements import PlanSpan
from backend.domain.subscriptions import Standing, Subscription


def holds_at(at: datetime | BindParameter[datetime]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions of the one subscription that a tenant is on at an instant."""
    ended_at = col(SubscriptionRow.ended_at)
    return col(SubscriptionRow.started_at) <= at, or_(ended_at.is_(None), ended_at > at)


@tenant_rows
class SqlSubscriptions:
    """Which plan a tenant is on."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def start(
        self, tenant_id: TenantId, plan_id: str, at: datetime, enforcement: Enforcement = Enforcement.ENFORCE
    ) -> int:
        """Put the tenant on a plan from an instant on; return the tenant's new version."""
        # Cached key grants hold the plan: they must be read again. The row's lock also keeps a second change waiting.
        version = await self._session.scalar(
            update(TenantRow)
            .where(col(TenantRow.id) == tenant_id)
            .values(version=TenantRow.version + 1)
            .returning(col(TenantRow.version))
        )
        of_tenant = col(SubscriptionRow.tenant_id) == tenant_id
        # What was to begin then or later never does.
        await self._session.execute(
            delete(SubscriptionRow).where(of_tenant).where(col(SubscriptionRow.started_at) >= at)
        )
        still = or_(col(SubscriptionRow.ended_at).is_(None), col(SubscriptionRow.ended_at) > at)
        await self._session.execute(update(SubscriptionRow).where(of_tenant).where(still).values(ended_at=at))
        self._session.add(
            SubscriptionRow(
                id=new_id("sub"),
                tenant_id=tenant_id,
                plan_id=plan_id,
                started_at=at,
                ended_at=None,
                enforcement=enforcement,
            )
        )
        await self._session.flush()
        return version or 0

    async def current_plan(self, tenant_id: TenantId, at: datetime) -> Plan | None:
        """Return the plan the tenant is on at an instant."""
        row = await self._session.scalar(
            select(PlanRow)
            .join(SubscriptionRow, col(SubscriptionRow.plan_id) == col(PlanRow.id))
            .where(col(SubscriptionRow.tenant_id) == tenant_id)
            .where(*holds_at(at))
        )
        return plan_from_row(row) if row else None

    async def standing(self, tenant_id: TenantId, at: datetime) -> Standing:
        """Return what the tenant is on at an instant, and what follows."""
        rows = await self._session.execute(
            select(SubscriptionRow, PlanRow)
            .join(PlanRow, col(SubscriptionRow.plan_id) == col(PlanRow.id))
            .where(col(SubscriptionRow.tenant_id) == tenant_id)
            .where(or_(col(SubscriptionRow.ended_at).is_(None), col(SubscriptionRow.ended_at) > at))
            .order_by(col(SubscriptionRow.started_at))
            .limit(2)
        )
        found = [_subscription(row, plan) for row, plan in rows]
        return Standing(
            current=next((each for each in found if each.holds_at(at)), None),
            following=next((each for each in found if each.started_at > at), None),
        )

    async def spans(self, tenant_id: TenantId, start: datetime, end: datetime) -> tuple[PlanSpan, ...]:
        """Return which plan versions the tenant was on between two instants, oldest first."""
        ended_at = col(SubscriptionRow.ended_at)
        rows = await self._session.scalars(
            select(SubscriptionRow)
            .where(col(SubscriptionRow.tenant_id) == tenant_id)
            .where(col(SubscriptionRow.started_at) < end, or_(ended_at.is_(None), ended_at > start))
            .order_by(col(SubscriptionRow.started_at))
        )
        return tuple(PlanSpan(plan_id=row.plan_id, started_at=row.started_at, ended_at=row.ended_at) for row in rows)


def _subscription(row: SubscriptionRow, plan: PlanRow) -> Subscription:
    return Subscription(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        plan=plan_from_row(plan),
        started_at=row.started_at,
        ended_at=row.ended_at,
        enforcement=Enforcement(row.enforcement),
    )
