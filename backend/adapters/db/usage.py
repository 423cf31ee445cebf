"""Reads the ledger: events in commit order up to the watermark, and exact totals."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Date,
    Select,
    String,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)
from sqlmodel import SQLModel, col

from backend.adapters.db.commit_order import CommitOrder
from backend.adapters.db.row_security import show_all_tenants, show_tenant
from backend.adapters.db.tables import ExpiredPeriodRow, TenantRow, UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import UsageSums, of_period
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock
from backend.domain.ids import TenantId
from backend.domain.usage import (
    BillingReason,
    EventFilter,
    EventPage,
    LedgerPosition,
    PlanUsage,
    StoredEvent,
    SummaryLine,
    SummaryQuery,
    UnitsQuery,
    UsageEvent,
)

_LEDGER = SQLModel.metadata.tables["usage_events"]


class SqlUsageReader:
    """The ledger's readers."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._order = CommitOrder("usage_events", is_sqlite=database.engine.dialect.name == "sqlite")
        self._sums = UsageSums(database)
        self._event = select(*_LEDGER.columns, self._order.transaction.label("transaction"))

    async def events(self, tenant_id: TenantId, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """Return a tenant's events past ``after`` and below the watermark, in commit order."""
        return await self._page(tenant_id, wanted, after, limit)

    async def events_of_all_tenants(self, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """The same for every tenant at once."""
        return await self._page(None, wanted, after, limit)

    async def summary(self, tenant_id: TenantId, query: SummaryQuery) -> tuple[SummaryLine, ...]:
        """Return totals by bucket and group, in order of bucket and then of group."""
        return await self._sums.summary(tenant_id, query, self._clock.now())

    async def plan_usage(self, tenant_id: TenantId, period: str) -> tuple[PlanUsage, ...]:
        """Return a period's totals of each plan version that was in force."""
        return await self._sums.by_plan(tenant_id, period)

    async def units_in_period(
        self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
    ) -> int:
        """Return the units in the ledger for the tenant, or for one credential of it."""
        wanted = UnitsQuery(environment=environment, period=period, credential_id=credential_id)
        return await self._sums.units(tenant_id, wanted)

    async def event(self, tenant_id: TenantId, event_id: str) -> UsageEvent | None:
        """Return one event."""
        named = self._event.where(_LEDGER.c.tenant_id == tenant_id, _LEDGER.c.event_id == event_id)
        return await self._one(tenant_id, named)

    async def event_of_all_tenants(self, event_id: str) -> UsageEvent | None:
        """Return one event, whoever's it is."""
        # Tenant by tenant: ids are indexed within a tenant, and there are far fewer tenants than events.
        if self._database.engine.dialect.name == "sqlite":
            of_tenants = _LEDGER.c.tenant_id.in_(select(col(TenantRow.id)))
            return await self._one(None, self._event.where(of_tenants, _LEDGER.c.event_id == event_id))
        own = self._event.where(_LEDGER.c.tenant_id == col(TenantRow.id), _LEDGER.c.event_id == event_id)
        # Spelled out: a planner that has seen few tenants would read all events instead.
        found = own.correlate(TenantRow).limit(1).lateral("found")
        return await self._one(None, select(*found.columns).select_from(TenantRow).join(found, true()))

    async def bounds(self, tenant_id: TenantId, period: str) -> tuple[LedgerPosition, LedgerPosition] | None:
        """Return the first and the last position of a period's events; ``None`` when it has none."""
        ends: list[Any] = []
        async with self._database.connection() as connection:
            await show_tenant(connection, tenant_id)
            for descends in (False, True):
                statement = self._in_order([_LEDGER.c.tenant_id == tenant_id], period, 1, descends=descends)
                ends += (await connection.execute(statement)).mappings().all()
        if not ends:
            return None
        first, last = (LedgerPosition(int(end["transaction"]), end["position"]) for end in ends)
        return first, last

    async def is_expired(self, tenant_id: TenantId, period: str) -> bool:
        """Whether the tenant's events of a period are not kept any more."""
        return await self._is_expired(tenant_id, col(ExpiredPeriodRow.tenant_id) == tenant_id, period)

    async def is_expired_of_all_tenants(self, period: str) -> bool:
        """Whether any tenant's events of a period are not kept any more."""
        return await self._is_expired(None, true(), period)

    async def _is_expired(self, tenant_id: TenantId | None, whose: ColumnElement[bool], period: str) -> bool:
        query = select(col(ExpiredPeriodRow.period)).where(whose, col(ExpiredPeriodRow.period) == period).limit(1)
        async with self._database.connection() as connection:
            await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
            return await connection.scalar(query) is not None

    async def first_period(self, tenant_id: TenantId) -> str | None:
        """Return the oldest period that the tenant has used anything in."""
        return await self._sums.first_period(tenant_id)

    async def _one(self, tenant_id: TenantId | None, query: Select[Any]) -> UsageEvent | None:
        statement = query.limit(1)
        async with self._database.connection() as connection:
            await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else _stored(dict(row)).event

    def _in_order(
        self, conditions: Sequence[ColumnElement[bool]], period: str | None, limit: int, *, descends: bool = False
    ) -> Select[Any] | CompoundSelect[Any]:
        """Return the statement for the first events in commit order, or the last ones; ``period`` ``None`` is any."""
        wanted = self._event.where(*conditions)
        if period is None or self._database.engine.dialect.name == "sqlite":
            if period is not None:
                wanted = wanted.where(of_period(period))
            return wanted.order_by(*_directed(self._order.columns, descends=descends)).limit(limit)
        # Strays are few and have an index of their own, which is not in this order. A planner that may stop early would
        # rather read another month in order, to its end, and find hardly any: so this is an order that no index has.
        wanted, (is_own, is_stray) = wanted.where(of_period(period)), _homes(period)
        own = wanted.where(is_own).order_by(*_directed(self._order.columns, descends=descends))
        unindexed = [each + literal_column("0", BigInteger) for each in self._order.columns]
        strays = wanted.where(is_stray).order_by(*_directed(unindexed, descends=descends))
        both = union_all(own.limit(limit), strays.limit(limit))
        names: list[ColumnElement[Any]] = [column("transaction"), column("position")]
        return both.order_by(*_directed(names, descends=descends)).limit(limit)

    async def _page(
        self, tenant_id: TenantId | None, wanted: EventFilter, after: LedgerPosition, limit: int
    ) -> EventPage:
        """Return a page of one tenant's events, or of everybody's."""
        async with self._database.connection() as connection:
            await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
            watermark = await self._order.watermark(connection)
            conditions = [*_conditions(tenant_id, wanted), self._order.after(after), self._order.before(watermark)]
            statement = self._in_order(conditions, wanted.period, limit + 1)
            rows = (await connection.execute(statement)).mappings().all()
        return EventPage(
            events=tuple(_stored(dict(row)) for row in rows[:limit]),
            has_more=len(rows) > limit,
            watermark=watermark,
        )


def _directed(columns: Iterable[ColumnElement[Any]], *, descends: bool) -> list[ColumnElement[Any]]:
    return [each.desc() if descends else each.asc() for each in columns]


def _homes(period: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return which events are in their period's own month of the ledger, and which are strays (migration 0015)."""
    year, month = int(period[:4]), int(period[5:])
    # Whatever may be asked for: no database has a year 0, and Python no year 10000.
    firsts = [f"{max(each, '0001-01')}-01" for each in (period, f"{year + month // 12:04}-{month % 12 + 1:02}")]
    low, high = (
        func.forecourt_usage_bound(cast(bindparam(None, first, String, literal_execute=True), Date)) for first in firsts
    )
    return and_(_LEDGER.c.event_id >= low, _LEDGER.c.event_id < high), or_(
        _LEDGER.c.event_id < low, _LEDGER.c.event_id >= high
    )


def _conditions(tenant_id: TenantId | None, wanted: EventFilter) -> list[ColumnElement[bool]]:
    conditions = []
    if tenant_id is not None:
        conditions.append(col(UsageEventRow.tenant_id) == tenant_id)
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
