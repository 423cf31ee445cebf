"""Adjustments in SQL: only ever added to."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Select, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from backend.adapters.db.commit_order import OLDEST_RUNNING, CommitOrder
from backend.adapters.db.late_events import hold_period
from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import UsageAdjustmentRow
from backend.domain.adjustments import AdjustedUsage, Adjustment, AdjustmentKind, StoredAdjustment
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import BillingReason, LedgerPosition, UsageEvent

_TABLE = SQLModel.metadata.tables["usage_adjustments"]
_PLAN = (col(UsageAdjustmentRow.corrects_period), col(UsageAdjustmentRow.plan_id), col(UsageAdjustmentRow.plan_version))


@tenant_rows
class SqlAdjustments:
    """What corrects the books."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._is_sqlite = session.get_bind().dialect.name == "sqlite"
        self._order = CommitOrder("usage_adjustments", is_sqlite=self._is_sqlite)

    async def add(self, tenant_id: TenantId, adjustment: Adjustment) -> None:
        """Book an adjustment. Its period cannot begin to close before it is."""
        if not self._is_sqlite:
            await hold_period(self._session, tenant_id, adjustment.period, shared=True)
        values = asdict(adjustment)
        self._session.add(
            UsageAdjustmentRow(**{**values, "adjustment_id": values.pop("id"), "late_event": None, "fingerprint": None})
        )
        await self._session.flush()

    async def page(
        self, tenant_id: TenantId, period: str | None, after: LedgerPosition, limit: int
    ) -> list[StoredAdjustment]:
        """Return adjustments booked in a period, or in any, past ``after`` and below the watermark."""
        return await self._page(self._query(period).where(_TABLE.c.tenant_id == tenant_id), after, limit)

    @of_all_tenants
    async def page_of_all_tenants(
        self, period: str | None, after: LedgerPosition, limit: int
    ) -> list[StoredAdjustment]:
        """The same for every tenant at once."""
        return await self._page(self._query(period), after, limit)

    async def billable_of_event(self, tenant_id: TenantId, event_id: str) -> int:
        """Return what an event has been corrected by so far."""
        return await self._sum(_TABLE.c.tenant_id == tenant_id, _TABLE.c.event_id == event_id)

    async def billable_of_period(self, tenant_id: TenantId, period: str) -> int:
        """Return what a period has been corrected by so far."""
        return await self._sum(_TABLE.c.tenant_id == tenant_id, _TABLE.c.corrects_period == period)

    async def adjusted(self, tenant_id: TenantId, period: str) -> tuple[AdjustedUsage, ...]:
        """Return what is booked in a period, by what it corrects, with what was booked for the same before."""
        billable, booked = col(UsageAdjustmentRow.billable_units), col(UsageAdjustmentRow.period)
        found = await self._session.execute(
            select(
                *_PLAN,
                func.sum(case((booked < period, billable), else_=0)),
                func.sum(case((booked == period, billable), else_=0)),
            )
            .where(col(UsageAdjustmentRow.tenant_id) == tenant_id)
            .where(booked <= period)
            .group_by(*_PLAN)
            .having(func.sum(case((booked == period, 1), else_=0)) > 0)
            .order_by(*_PLAN)
        )
        return tuple(
            AdjustedUsage(
                corrects_period=corrects,
                plan_id=plan_id,
                plan_version=version,
                earlier=int(earlier),
                units=int(units),
            )
            for corrects, plan_id, version, earlier, units in found
        )

    async def totals(self, tenant_id: TenantId, period: str) -> tuple[int, int, int]:
        """Return how many adjustments are booked in a period, their units and their billable units."""
        found = await self._session.execute(
            select(
                func.count(),
                func.coalesce(func.sum(col(UsageAdjustmentRow.units)), 0),
                func.coalesce(func.sum(col(UsageAdjustmentRow.billable_units)), 0),
            )
            .where(col(UsageAdjustmentRow.tenant_id) == tenant_id)
            .where(col(UsageAdjustmentRow.period) == period)
        )
        count, units, billable_units = found.one()
        return int(count), int(units), int(billable_units)

    async def _sum(self, *conditions: Any) -> int:
        total = func.coalesce(func.sum(col(UsageAdjustmentRow.billable_units)), 0)
        return int(await self._session.scalar(select(total).where(*conditions)) or 0)

    def _query(self, period: str | None) -> Select[Any]:
        query: Select[Any] = select(*_TABLE.columns, self._order.transaction.label("transaction"))
        return query if period is None else query.where(_TABLE.c.period == period)

    async def _page(self, query: Select[Any], after: LedgerPosition, limit: int) -> list[StoredAdjustment]:
        if not self._is_sqlite:
            query = query.where(self._order.transaction < OLDEST_RUNNING)
        query = query.where(self._order.after(after)).order_by(*self._order.columns).limit(limit)
        return [_stored(dict(row)) for row in (await self._session.execute(query)).mappings()]


def _stored(row: dict[str, Any]) -> StoredAdjustment:
    return StoredAdjustment(
        position=LedgerPosition(int(row["transaction"]), row["position"]),
        adjustment=Adjustment(
            id=row["adjustment_id"],
            tenant_id=TenantId(row["tenant_id"]),
            kind=AdjustmentKind(row["kind"]),
            period=row["period"],
            corrects_period=row["corrects_period"],
            event_id=row["event_id"],
            units=row["units"],
            billable_units=row["billable_units"],
            plan_id=row["plan_id"],
            plan_version=row["plan_version"],
            reason=row["reason"],
            actor_kind=row["actor_kind"],
            actor_id=row["actor_id"],
            created_at=row["created_at"],
            late_event=_event(row["late_event"]) if row["late_event"] else None,
        ),
    )


def _event(stored: dict[str, Any]) -> UsageEvent:
    return UsageEvent(
        **{
            **stored,
            "tenant_id": TenantId(stored["tenant_id"]),
            "environment": Environment(stored["environment"]),
            "reason": BillingReason(stored["reason"]),
            "occurred_at": datetime.fromisoformat(stored["occurred_at"]),
        }
    )
