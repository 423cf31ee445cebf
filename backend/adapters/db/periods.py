"""Billing periods in SQL. A period is open until a row says that it is closing, and closed once another does."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, exists, literal_column
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.commit_order import OLDEST_RUNNING
from backend.adapters.db.late_events import hold_period
from backend.adapters.db.period_content import from_content, to_content
from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import ClosedPeriodRow, PeriodClosingRow
from backend.domain.billing_periods import ClosedPeriod, PeriodState
from backend.domain.ids import TenantId

_COMMIT_XID = literal_column("period_closings.commit_xid", BigInteger)


@tenant_rows
class SqlPeriods:
    """Tenants' billing periods."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._is_sqlite = session.get_bind().dialect.name == "sqlite"

    async def hold(self, tenant_id: TenantId, period: str) -> None:
        """Keep everybody from adding to a period, and from closing it, until this unit ends."""
        if not self._is_sqlite:
            await hold_period(self._session, tenant_id, period, shared=False)

    async def begin_close(self, tenant_id: TenantId, period: str, at: datetime) -> None:
        """Settle what belongs to a period; doing it again changes nothing."""
        await self._insert(PeriodClosingRow, tenant_id=tenant_id, period=period, started_at=at)

    async def state(self, tenant_id: TenantId, period: str) -> PeriodState:
        """Return how far a period is."""
        if await self._session.get(ClosedPeriodRow, (tenant_id, period)) is not None:
            return PeriodState.CLOSED
        begun = await self._session.get(PeriodClosingRow, (tenant_id, period))
        return PeriodState.OPEN if begun is None else PeriodState.CLOSING

    async def is_settled(self, tenant_id: TenantId, period: str) -> bool:
        """Whether every transaction that ran when the period began to close has ended: all that belongs to it is seen.

        On SQLite nothing ran beside it.
        """
        query = select(col(PeriodClosingRow.period)).where(
            col(PeriodClosingRow.tenant_id) == tenant_id, col(PeriodClosingRow.period) == period
        )
        if not self._is_sqlite:
            query = query.where(OLDEST_RUNNING > _COMMIT_XID)
        return await self._session.scalar(query) is not None

    async def add(self, tenant_id: TenantId, closed: ClosedPeriod) -> bool:
        """Keep what a period came to; return whether nobody had."""
        return await self._insert(
            ClosedPeriodRow,
            tenant_id=tenant_id,
            period=closed.period,
            closed_at=closed.closed_at,
            content=to_content(closed),
        )

    async def closed(self, tenant_id: TenantId, period: str) -> ClosedPeriod | None:
        """Return what a closed period came to."""
        row = await self._session.get(ClosedPeriodRow, (tenant_id, period))
        return None if row is None else from_content(tenant_id, period, row.closed_at, row.content)

    async def begun(self, tenant_id: TenantId) -> tuple[str, ...]:
        """Return the tenant's periods that are closing or closed, oldest first."""
        found = await self._session.scalars(
            select(col(PeriodClosingRow.period))
            .where(col(PeriodClosingRow.tenant_id) == tenant_id)
            .order_by(col(PeriodClosingRow.period))
        )
        return tuple(found)

    @of_all_tenants
    async def closed_of_all_tenants(self, period: str) -> frozenset[str]:
        """Return the ids of the tenants whose period is closed."""
        found = await self._session.scalars(
            select(col(ClosedPeriodRow.tenant_id)).where(col(ClosedPeriodRow.period) == period)
        )
        return frozenset(found)

    @of_all_tenants
    async def unfinished_of_all_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return the periods that are closing, oldest first."""
        is_closed = exists().where(
            col(ClosedPeriodRow.tenant_id) == col(PeriodClosingRow.tenant_id),
            col(ClosedPeriodRow.period) == col(PeriodClosingRow.period),
        )
        found = await self._session.execute(
            select(col(PeriodClosingRow.tenant_id), col(PeriodClosingRow.period))
            .where(~is_closed)
            .order_by(col(PeriodClosingRow.period), col(PeriodClosingRow.tenant_id))
        )
        return tuple((TenantId(tenant_id), period) for tenant_id, period in found)

    async def _insert(self, table: Any, **values: Any) -> bool:
        insert = (sqlite_insert if self._is_sqlite else postgresql_insert)(table)
        statement = insert.values(**values).on_conflict_do_nothing().returning(table.period)
        return await self._session.scalar(statement) is not None
