"""Reads the ledger: events in commit order up to the watermark, and exact totals."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, func, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel, col

from backend.adapters.db.engine import translated_errors
from backend.adapters.db.row_security import show_all_tenants, show_tenant
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock
from backend.domain.ids import TenantId
from backend.domain.usage import (
    BillingReason,
    Bucket,
    EventFilter,
    EventPage,
    GroupBy,
    LedgerPosition,
    StoredEvent,
    SummaryLine,
    SummaryQuery,
    UsageEvent,
    bucket_end,
)

# An event is stored within the ledger's own time bounds of being served; after this a bucket no longer grows.
COMPLETE_AFTER = timedelta(minutes=2)
_GROUP_COLUMNS = {
    GroupBy.MODEL: col(UsageEventRow.model),
    GroupBy.KEY: col(UsageEventRow.credential_id),
    GroupBy.ENVIRONMENT: col(UsageEventRow.environment),
}
_LEDGER = SQLModel.metadata.tables["usage_events"]
_SQLITE_BUCKETS = {
    Bucket.HOUR: "%Y-%m-%d %H:00:00",
    Bucket.DAY: "%Y-%m-%d 00:00:00",
    Bucket.MONTH: "%Y-%m-01 00:00:00",
}


class SqlUsageReader:
    """The ledger's readers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._engine = database.engine
        self._clock = clock
        self._is_sqlite = database.engine.dialect.name == "sqlite"

    async def events(self, tenant_id: TenantId, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """Return a tenant's events past ``after`` and below the watermark, in commit order."""
        return await self._page(tenant_id, wanted, after, limit)

    async def events_of_all_tenants(self, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """The same for every tenant at once."""
        return await self._page(None, wanted, after, limit)

    async def summary(self, tenant_id: TenantId, query: SummaryQuery) -> tuple[SummaryLine, ...]:
        """Return totals by bucket and group, in order of bucket and then of group."""
        bucket = self._bucket(query.bucket).label("bucket")
        groups = [_GROUP_COLUMNS[by] for by in query.group_by]
        statement = (
            select(
                bucket,
                *groups,
                func.count(),
                func.sum(col(UsageEventRow.units)),
                func.sum(col(UsageEventRow.cached_units)),
                func.sum(col(UsageEventRow.billable_units)),
            )
            .where(col(UsageEventRow.tenant_id) == tenant_id)
            .where(col(UsageEventRow.occurred_at) >= query.start)
            .where(col(UsageEventRow.occurred_at) < query.end)
            .group_by(bucket, *groups)
            .order_by(bucket, *groups)
        )
        with translated_errors():
            async with self._engine.connect() as connection:
                await show_tenant(connection, tenant_id)
                rows = (await connection.execute(statement)).all()
        now = self._clock.now()
        return tuple(_line(tuple(row), query, now) for row in rows)

    async def units_in_period(
        self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
    ) -> int:
        """Return the units in the ledger for the tenant, or for one credential of it."""
        statement = (
            select(func.coalesce(func.sum(col(UsageEventRow.units)), 0))
            .where(col(UsageEventRow.tenant_id) == tenant_id)
            .where(col(UsageEventRow.environment) == environment.value)
            .where(col(UsageEventRow.period) == period)
        )
        if credential_id is not None:
            statement = statement.where(col(UsageEventRow.credential_id) == credential_id)
        with translated_errors():
            async with self._engine.connect() as connection:
                await show_tenant(connection, tenant_id)
                return int(await connection.scalar(statement) or 0)

    async def _page(
        self, tenant_id: TenantId | None, wanted: EventFilter, after: LedgerPosition, limit: int
    ) -> EventPage:
        """Return a page of one tenant's events, or of everybody's."""
        order = self._commit_order()
        position = tuple_(*order)
        statement = select(*_LEDGER.columns, self._transaction().label("transaction"))
        for condition in _conditions(tenant_id, wanted):
            statement = statement.where(condition)
        with translated_errors():
            async with self._engine.connect() as connection:
                await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
                watermark = await self._watermark(connection)
                statement = (
                    statement.where(position > self._place(after))
                    .where(position < self._place(watermark))
                    .order_by(*order)
                    .limit(limit + 1)
                )
                rows = (await connection.execute(statement)).mappings().all()
        return EventPage(
            events=tuple(_stored(dict(row)) for row in rows[:limit]),
            has_more=len(rows) > limit,
            watermark=watermark,
        )

    def _commit_order(self) -> list[ColumnElement[Any]]:
        # SQLite commits one writer at a time, so there the row number alone is commit order.
        row = _LEDGER.columns.position
        return [row] if self._is_sqlite else [self._transaction(), row]

    def _place(self, position: LedgerPosition) -> ColumnElement[Any]:
        """Return a position as what the commit order is compared with."""
        return tuple_(position.row) if self._is_sqlite else tuple_(position.transaction, position.row)

    def _transaction(self) -> ColumnElement[int]:
        return literal_column("0" if self._is_sqlite else "usage_events.commit_xid", BigInteger)

    async def _watermark(self, connection: AsyncConnection) -> LedgerPosition:
        """Return the position below which nothing can still appear."""
        if self._is_sqlite:
            newest = await connection.scalar(select(func.max(col(UsageEventRow.position))))
            return LedgerPosition(0, (newest or 0) + 1)
        oldest_running = await connection.scalar(
            select(literal_column("pg_snapshot_xmin(pg_current_snapshot())::text::bigint"))
        )
        return LedgerPosition(int(oldest_running or 0), 0)

    def _bucket(self, bucket: Bucket) -> ColumnElement[Any]:
        if self._is_sqlite:
            return func.strftime(_SQLITE_BUCKETS[bucket], col(UsageEventRow.occurred_at))
        return func.date_trunc(bucket.value, col(UsageEventRow.occurred_at), "UTC")


def _conditions(tenant_id: TenantId | None, wanted: EventFilter) -> list[ColumnElement[bool]]:
    conditions = []
    if tenant_id is not None:
        conditions.append(col(UsageEventRow.tenant_id) == tenant_id)
    if wanted.period is not None:
        conditions.append(col(UsageEventRow.period) == wanted.period)
    if wanted.credential_id is not None:
        conditions.append(col(UsageEventRow.credential_id) == wanted.credential_id)
    if wanted.model is not None:
        conditions.append(col(UsageEventRow.model) == wanted.model)
    return conditions


def _stored(row: dict[str, Any]) -> StoredEvent:
    return StoredEvent(
        position=LedgerPosition(int(row["transaction"]), row["position"]),
        stored_at=row["stored_at"],
        event=UsageEvent(
            id=row["event_id"],
            tenant_id=TenantId(row["tenant_id"]),
            credential_id=row["credential_id"],
            environment=Environment(row["environment"]),
            model=row["model"],
            model_version=row["model_version"],
            units=row["units"],
            cached_units=row["cached_units"],
            billable_units=row["billable_units"],
            reason=BillingReason(row["reason"]),
            plan_id=row["plan_id"],
            plan_version=row["plan_version"],
            request_id=row["request_id"],
            occurred_at=row["occurred_at"],
            period=row["period"],
        ),
    )


def _line(row: tuple[Any, ...], query: SummaryQuery, now: datetime) -> SummaryLine:
    start = row[0]
    if isinstance(start, str):
        start = datetime.fromisoformat(start)
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    groups = len(query.group_by)
    events, units, cached_units, billable_units = (int(value) for value in row[1 + groups :])
    return SummaryLine(
        start=start,
        group=tuple(zip(query.group_by, (str(value) for value in row[1 : 1 + groups]), strict=True)),
        events=events,
        units=units,
        cached_units=cached_units,
        billable_units=billable_units,
        complete=bucket_end(start, query.bucket) + COMPLETE_AFTER <= now,
    )
