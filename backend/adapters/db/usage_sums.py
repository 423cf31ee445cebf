"""Totals of usage: roll-ups, and the ledger's own rows for what is not rolled up yet.

One statement reads both and the checkpoint between them, so it sees them at one instant: an event is in the roll-ups
or past the checkpoint, never in both and never in neither. Where a span begins or ends within an hour, that hour's
rows are read from the ledger too.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, literal, or_, select, union_all
from sqlmodel import col

from backend.adapters.db.commit_order import CommitOrder
from backend.adapters.db.row_security import show_tenant
from backend.adapters.db.tables import UsageCheckpointRow, UsageEventRow, UsageRollupRow
from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import (
    Bucket,
    GroupBy,
    PlanUsage,
    SummaryLine,
    SummaryQuery,
    UnitsQuery,
    UsageTotal,
    is_complete,
)

ROLLUPS = "rollups"
HOUR = timedelta(hours=1)
_COUNTED = ("units", "cached_units", "billable_units")
_GROUPS = {GroupBy.MODEL: "model", GroupBy.KEY: "credential_id", GroupBy.ENVIRONMENT: "environment"}
_SQLITE_BUCKETS = {
    Bucket.HOUR: "%Y-%m-%d %H:00:00",
    Bucket.DAY: "%Y-%m-%d 00:00:00",
    Bucket.MONTH: "%Y-%m-01 00:00:00",
}


class UsageSums:
    """Exact at once, whatever has been rolled up."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_sqlite = database.engine.dialect.name == "sqlite"
        self._order = CommitOrder("usage_events", is_sqlite=self._is_sqlite)

    async def summary(self, tenant_id: TenantId, query: SummaryQuery, now: datetime) -> tuple[SummaryLine, ...]:
        """Return totals by bucket and group, in order of bucket and then of group."""
        names = [_GROUPS[by] for by in query.group_by]
        rolled = _from_rollups(tenant_id, names, self._bucket(query.bucket, col(UsageRollupRow.hour)))
        raw = _from_events(tenant_id, names, self._bucket(query.bucket, col(UsageEventRow.occurred_at)))
        occurred_at, hour = col(UsageEventRow.occurred_at), col(UsageRollupRow.hour)
        first, last = _whole_hours(query.start, query.end)
        parts = [raw.where(occurred_at >= query.start, occurred_at < query.end)]
        if first < last:
            edges = or_(
                and_(occurred_at >= query.start, occurred_at < first),
                and_(occurred_at >= last, occurred_at < query.end),
            )
            parts = [
                rolled.where(hour >= first, hour < last),
                raw.where(occurred_at >= query.start, occurred_at < query.end, self._not_rolled_up()),
                raw.where(edges, self._rolled_up()),
            ]
        rows = await self._summed(tenant_id, parts, ["bucket", *names])
        return tuple(_line(row, query, now) for row in rows)

    async def units(self, tenant_id: TenantId, wanted: UnitsQuery) -> int:
        """Return the units of a period, of an environment and of one credential or of all."""
        filters = {"environment": wanted.environment.value, "period": wanted.period}
        if wanted.credential_id is not None:
            filters["credential_id"] = wanted.credential_id
        rows = await self._summed(tenant_id, self._everything(tenant_id, [], filters), [])
        return int(rows[0].units or 0)

    async def by_credential(self, tenant_id: TenantId, period: str) -> tuple[UsageTotal, ...]:
        """Return a period's totals of each environment and credential."""
        names = ["environment", "credential_id"]
        rows = await self._summed(tenant_id, self._everything(tenant_id, names, {"period": period}), names)
        return tuple(
            UsageTotal(
                environment=Environment(row.environment),
                credential_id=row.credential_id,
                units=int(row.units),
                billable_units=int(row.billable_units),
            )
            for row in rows
        )

    async def by_plan(self, tenant_id: TenantId, period: str) -> tuple[PlanUsage, ...]:
        """Return a period's totals of each plan version that was in force."""
        names = ["plan_id", "plan_version"]
        rows = await self._summed(tenant_id, self._everything(tenant_id, names, {"period": period}), names)
        return tuple(
            PlanUsage(
                plan_id=row.plan_id,
                plan_version=int(row.plan_version),
                events=int(row.events),
                units=int(row.units),
                billable_units=int(row.billable_units),
            )
            for row in rows
        )

    async def first_period(self, tenant_id: TenantId) -> str | None:
        """Return the oldest period that the tenant has used anything in."""
        rolled, raw = col(UsageRollupRow.period), col(UsageEventRow.period)
        parts = union_all(
            select(func.min(rolled).label("period")).where(col(UsageRollupRow.tenant_id) == tenant_id),
            select(func.min(raw)).where(col(UsageEventRow.tenant_id) == tenant_id, self._not_rolled_up()),
        ).subquery()
        async with self._database.connection() as connection:
            await show_tenant(connection, tenant_id)
            found: str | None = await connection.scalar(select(func.min(parts.c.period)))
            return found

    def _everything(
        self, tenant_id: TenantId, names: Sequence[str], filters: dict[str, str]
    ) -> list[Select[tuple[Any, ...]]]:
        rolled, raw = _from_rollups(tenant_id, names), _from_events(tenant_id, names)
        for name, value in filters.items():
            rolled = rolled.where(getattr(UsageRollupRow, name) == value)
            raw = raw.where(of_period(value) if name == "period" else getattr(UsageEventRow, name) == value)
        return [rolled, raw.where(self._not_rolled_up())]

    async def _summed(
        self, tenant_id: TenantId, parts: Sequence[Select[tuple[Any, ...]]], names: Sequence[str]
    ) -> Sequence[Any]:
        parts_of_it = union_all(*parts).subquery()
        groups = [parts_of_it.c[name] for name in names]
        sums = [func.sum(parts_of_it.c[name]).label(name) for name in ("events", *_COUNTED)]
        statement = select(*groups, *sums).group_by(*groups).order_by(*groups)
        async with self._database.connection() as connection:
            await show_tenant(connection, tenant_id)
            return (await connection.execute(statement)).all()

    def _not_rolled_up(self) -> ColumnElement[bool]:
        return self._order.beyond(*_checkpoint())

    def _rolled_up(self) -> ColumnElement[bool]:
        return self._order.within(*_checkpoint())

    def _bucket(self, bucket: Bucket, instant: Any) -> ColumnElement[Any]:
        if self._is_sqlite:
            return func.strftime(_SQLITE_BUCKETS[bucket], instant)
        return func.date_trunc(bucket.value, instant, "UTC")


def of_period(period: str) -> ColumnElement[bool]:
    """Events of a period. It is spelt out in the statement: PostgreSQL then knows, when it plans, of which months it
    has to look at strays only (migration 0015)."""
    return col(UsageEventRow.period) == bindparam(None, period, literal_execute=True)


def _checkpoint() -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    held = col(UsageCheckpointRow.name) == ROLLUPS
    xid = select(col(UsageCheckpointRow.xid)).where(held).scalar_subquery()
    return xid, select(col(UsageCheckpointRow.row)).where(held).scalar_subquery()


def _from_rollups(
    tenant_id: TenantId, names: Sequence[str], bucket: ColumnElement[Any] | None = None
) -> Select[tuple[Any, ...]]:
    columns = [] if bucket is None else [bucket.label("bucket")]
    columns += [getattr(UsageRollupRow, name) for name in (*names, "events", *_COUNTED)]
    return select(*columns).where(col(UsageRollupRow.tenant_id) == tenant_id)


def _from_events(
    tenant_id: TenantId, names: Sequence[str], bucket: ColumnElement[Any] | None = None
) -> Select[tuple[Any, ...]]:
    columns = [] if bucket is None else [bucket.label("bucket")]
    columns += [getattr(UsageEventRow, name) for name in names]
    columns += [literal(1).label("events"), *(getattr(UsageEventRow, name) for name in _COUNTED)]
    return select(*columns).where(col(UsageEventRow.tenant_id) == tenant_id)


def _whole_hours(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the first and the last hour's edge within a span."""
    floor = start.replace(minute=0, second=0, microsecond=0)
    return floor if floor == start else floor + HOUR, end.replace(minute=0, second=0, microsecond=0)


def _line(row: Any, query: SummaryQuery, now: datetime) -> SummaryLine:
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
        complete=is_complete(start, query, now),
    )
