"""Reads the ledger: events in commit order up to the watermark, and exact totals."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, true
from sqlmodel import SQLModel, col

from backend.adapters.db.commit_order import CommitOrder
from backend.adapters.db.row_security import show_all_tenants, show_tenant
from backend.adapters.db.tables import ExpiredPeriodRow, TenantRow, UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import UsageSums
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
                order = [column.desc() if descends else column.asc() for column in self._order.columns]
                statement = (
                    select(self._order.transaction, self._order.row)
                    .where(_LEDGER.c.tenant_id == tenant_id, _LEDGER.c.period == period)
                    .order_by(*order)
                    .limit(1)
                )
                ends += (await connection.execute(statement)).all()
        if not ends:
            return None
        first, last = (LedgerPosition(int(xid), int(row)) for xid, row in ends)
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
        """Return the oldest period that the tenant has events of."""
        async with self._database.connection() as connection:
            await show_tenant(connection, tenant_id)
            query = select(func.min(_LEDGER.c.period)).where(_LEDGER.c.tenant_id == tenant_id)
            found: str | None = await connection.scalar(query)
            return found

    async def _one(self, tenant_id: TenantId | None, query: Select[Any]) -> UsageEvent | None:
        statement = query.limit(1)
        async with self._database.connection() as connection:
            await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
            row = (await connection.execute(statement)).mappings().one_or_none()
        return None if row is None else _stored(dict(row)).event

    async def _page(
        self, tenant_id: TenantId | None, wanted: EventFilter, after: LedgerPosition, limit: int
    ) -> EventPage:
        """Return a page of one tenant's events, or of everybody's."""
        statement = select(*_LEDGER.columns, self._order.transaction.label("transaction"))
        for condition in _conditions(tenant_id, wanted):
            statement = statement.where(condition)
        async with self._database.connection() as connection:
            await (show_all_tenants(connection) if tenant_id is None else show_tenant(connection, tenant_id))
            watermark = await self._order.watermark(connection)
            statement = (
                statement.where(self._order.after(after), self._order.before(watermark))
                .order_by(*self._order.columns)
                .limit(limit + 1)
            )
            rows = (await connection.execute(statement)).mappings().all()
        return EventPage(
            events=tuple(_stored(dict(row)) for row in rows[:limit]),
            has_more=len(rows) > limit,
            watermark=watermark,
        )


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
