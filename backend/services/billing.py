"""What closing, statements and exports share: reading a period's records, and gathering what is owed for it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from backend.domain.adjustments import AdjustedUsage
from backend.domain.billing_periods import ControlTotals, ExportMark, PeriodState, PeriodView, period_end
from backend.domain.clock import Clock
from backend.domain.errors import Conflict
from backend.domain.ids import TenantId
from backend.domain.limits import period_start
from backend.domain.plans import Plan
from backend.domain.pricing import FREE
from backend.domain.statements import Billables, PlanSpan, StatementLine, price, total_micros
from backend.domain.usage import LEDGER_START, EventFilter, LedgerPosition, PlanUsage
from backend.domain.usage_records import Record
from backend.services.ports import Store, UnitOfWork, UsageReader

PAGE = 250
"""Records in memory at a time: few enough that other requests of the process hardly wait for a page."""


async def pages_of(
    store: Store, reader: UsageReader, tenant_id: TenantId, period: str, start: ExportMark | None = None
) -> AsyncIterator[Sequence[Record]]:
    """Yield a settled period's records in order: its events, then its adjustments; after a mark if given."""
    after = LedgerPosition.parse(start.position) if start else LEDGER_START
    if start is None or start.is_event:
        has_more = True
        while has_more:
            page = await reader.events(tenant_id, EventFilter(period=period), after, PAGE)
            has_more = page.has_more
            if page.events:
                after = page.events[-1].position
                yield page.events
        after = LEDGER_START
    while True:
        async with store.unit_of_work(read_only=True) as unit:
            found = await unit.adjustments.page(tenant_id, period, after, PAGE)
        if found:
            after = found[-1].position
            yield found
        if len(found) < PAGE:
            return


async def statement_lines(
    unit: UnitOfWork, reader: UsageReader, tenant_id: TenantId, period: str, usage: tuple[PlanUsage, ...], now: datetime
) -> tuple[tuple[StatementLine, ...], str]:
    """Return the lines of a period whose events came to ``usage``, and the currency that they are in.

    Raises:
        Conflict: the plans of one period have prices in several currencies, or one of them does not exist.
    """
    # A fee is owed for the time that has passed.
    end = min(period_end(period), now.astimezone(UTC))
    spans = tuple(
        PlanSpan(plan_id=span.plan_id, started_at=span.started_at, ended_at=min(span.ended_at or end, end))
        for span in await unit.subscriptions.spans(tenant_id, period_start(period), end)
    )
    adjusted = await unit.adjustments.adjusted(tenant_id, period)
    wanted = {span.plan_id for span in spans} | {each.plan_id for each in usage} | {each.plan_id for each in adjusted}
    plans = {plan_id: await _plan(unit, plan_id) for plan_id in sorted(wanted)}
    currencies = {plan.pricing.currency for plan in plans.values() if plan.pricing != FREE}
    if len(currencies) > 1:
        raise Conflict("The plans of this period have prices in several currencies.")
    corrected = await _corrected(reader, tenant_id, period, usage, adjusted)
    owed = Billables(period=period, spans=spans, usage=usage, adjusted=adjusted, corrected=corrected, plans=plans)
    return price(owed), next(iter(currencies), FREE.currency)


async def _plan(unit: UnitOfWork, plan_id: str) -> Plan:
    plan = await unit.plans.get(plan_id)
    if plan is None:
        raise Conflict("Usage was booked under a plan that does not exist.")
    return plan


async def _corrected(
    reader: UsageReader,
    tenant_id: TenantId,
    period: str,
    usage: tuple[PlanUsage, ...],
    adjusted: tuple[AdjustedUsage, ...],
) -> dict[tuple[str, str], int]:
    """Return the billable units, by period and plan, of every period that is corrected."""
    found = {(period, used.plan_id): used.billable_units for used in usage}
    for corrects in sorted({each.corrects_period for each in adjusted} - {period}):
        for used in await reader.plan_usage(tenant_id, corrects):
            found[corrects, used.plan_id] = used.billable_units
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a tenant owes for a period; of an open one, so far."""

    view: PeriodView
    lines: tuple[StatementLine, ...]


class OpenBooks:
    """Reads a tenant's period: as it was kept once it is closed, and until then as it is now."""

    def __init__(self, *, store: Store, reader: UsageReader, clock: Clock) -> None:
        self._store = store
        self._reader = reader
        self._clock = clock

    async def statement(self, tenant_id: TenantId, period: str) -> Statement:
        """Return a period with its control totals and its priced lines."""
        async with self._store.unit_of_work(read_only=True) as unit:
            closed = await unit.periods.closed(tenant_id, period)
            if closed is not None:
                view = PeriodView(
                    tenant_id=tenant_id,
                    period=period,
                    state=PeriodState.CLOSED,
                    totals=closed.totals,
                    closed_at=closed.closed_at,
                )
                return Statement(view=view, lines=closed.lines)
            state = await unit.periods.state(tenant_id, period)
            adjustments, units, billable_units = await unit.adjustments.totals(tenant_id, period)
            usage = await self._reader.plan_usage(tenant_id, period)
            lines, currency = await statement_lines(unit, self._reader, tenant_id, period, usage, self._clock.now())
        bounds = await self._reader.bounds(tenant_id, period)
        totals = ControlTotals(
            events=sum(each.events for each in usage),
            adjustments=adjustments,
            units=units + sum(each.units for each in usage),
            billable_units=billable_units + sum(each.billable_units for each in usage),
            amount_micros=total_micros(lines),
            currency=currency,
            first_position=str(bounds[0]) if bounds else None,
            last_position=str(bounds[1]) if bounds else None,
            sha256=None,
        )
        view = PeriodView(tenant_id=tenant_id, period=period, state=state, totals=totals, closed_at=None)
        return Statement(view=view, lines=lines)
