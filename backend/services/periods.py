"""Billing periods, as those see them who pay or bill."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.billing_periods import Comparison, ControlTotals, PeriodState, PeriodView, periods_between
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound
from backend.domain.ids import TenantId
from backend.domain.limits import period_of, period_start
from backend.domain.pricing import FREE
from backend.services.billing import OpenBooks, Statement
from backend.services.billing_access import asked_tenant, require_period, required_tenant
from backend.services.closing import CloseReport, PeriodCloser
from backend.services.ports import CursorCodec, Store, UsageReader
from backend.services.ports.store import TenantFilter

CLOSE_BUDGET_S = 20.0
"""A close over HTTP begins no further tenant after so long: the next request, or the worker, goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodPage:
    """Periods, and where the next page begins."""

    periods: tuple[PeriodView, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllTenants:
    """A period of all tenants together."""

    period: str
    state: PeriodState
    tenants: dict[PeriodState, int]
    totals: ControlTotals


class PeriodService:
    """Reads periods, and has them closed."""

    def __init__(
        self, *, store: Store, reader: UsageReader, closer: PeriodCloser, cursors: CursorCodec, clock: Clock
    ) -> None:
        self._store = store
        self._reader = reader
        self._closer = closer
        self._cursors = cursors
        self._clock = clock
        self._books = OpenBooks(store=store, reader=reader, clock=clock)

    async def list(
        self,
        caller: Caller | PlatformCaller,
        *,
        tenant_id: str | None,
        period: str | None,
        cursor: str | None,
        limit: int,
    ) -> PeriodPage:
        """Return a tenant's periods, newest first; to the platform, by default, one period of every tenant.

        That one period is the last that is over, unless said otherwise.

        Raises:
            NotFound: there is no such tenant, or it is not the caller's.
        """
        whose = await asked_tenant(self._store, caller, tenant_id)
        if whose is None:
            return await self._of_all_tenants(period, cursor, limit)
        purpose = f"periods:{whose}:{period}"
        before = self._cursors.decode(purpose, cursor) if cursor else "9999-99"
        known = [each for each in await self._periods(whose) if period in {None, each} and each < before]
        views = [await self._view(whose, each) for each in known[:limit]]
        more = len(known) > limit
        return PeriodPage(
            periods=tuple(views), next_cursor=self._cursors.encode(purpose, known[limit - 1]) if more else None
        )

    async def get(
        self, caller: Caller | PlatformCaller, period: str, *, tenant_id: str | None
    ) -> PeriodView | AllTenants:
        """Return one period as it is now, of a tenant or, to the platform, of all together.

        Raises:
            NotFound: the period has not begun; there is no such tenant, or it is not the caller's.
        """
        self._require_begun(period)
        whose = await asked_tenant(self._store, caller, tenant_id)
        if whose is not None:
            return await self._view(whose, period)
        async with self._store.unit_of_work(read_only=True) as unit:
            tenants = await unit.tenants.list_all()
        return _together(period, [await self._view(tenant.id, period) for tenant in tenants])

    async def reconciliation(
        self, caller: Caller | PlatformCaller, period: str, *, tenant_id: str | None
    ) -> tuple[TenantId, tuple[Comparison, ...]]:
        """Return what the ledger holds of a tenant's period beside what was settled.

        Raises:
            NotFound: the period has not begun; there is no such tenant, or it is not the caller's.
            EnforcementUnavailable: what was settled cannot be read.
        """
        self._require_begun(period)
        whose = await required_tenant(self._store, caller, tenant_id)
        return whose, await self._closer.compare(whose, period)

    async def close(
        self, caller: PlatformCaller, period: str, *, tenant_id: str | None, accepted: str | None
    ) -> CloseReport:
        """Close a period for every tenant, or for one. Those that can be closed are, whatever is wrong with others.

        Raises:
            WatermarkBehind: the period is not over for long enough, or a transaction may still add to it.
            ReconciliationMismatch: ledger and quota differ, of the tenants named.
            NotFound: there is no such tenant.
        """
        require_period(period, "/path/period")
        report = await self._closer.close(
            caller.actor, period, only=tenant_id, accepted=accepted, budget_s=CLOSE_BUDGET_S
        )
        report.refuse()
        return report

    async def statement(self, caller: Caller | PlatformCaller, period: str, *, tenant_id: str | None) -> Statement:
        """Return what a tenant owes for a period.

        Raises:
            NotFound: the period has not begun; there is no such tenant, or it is not the caller's.
        """
        self._require_begun(period, "/query/period")
        return await self._books.statement(await required_tenant(self._store, caller, tenant_id), period)

    async def _of_all_tenants(self, period: str | None, cursor: str | None, limit: int) -> PeriodPage:
        if period is None:
            this_month = period_start(period_of(self._clock.now_s()))
            period = period_of(this_month.timestamp() - 1)
        purpose = f"periods:*:{period}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        async with self._store.unit_of_work(read_only=True) as unit:
            found = await unit.tenants.page_of_all_tenants(TenantFilter(), after=after, limit=limit + 1)
        views = [await self._view(tenant.id, period) for tenant in found[:limit]]
        more = len(found) > limit
        return PeriodPage(
            periods=tuple(views), next_cursor=self._cursors.encode(purpose, found[limit - 1].id) if more else None
        )

    async def _periods(self, tenant_id: TenantId) -> Sequence[str]:
        """Return the periods that a tenant has anything to do with, newest first."""
        now = self._clock.now()
        async with self._store.unit_of_work(read_only=True) as unit:
            tenant = await unit.tenants.get(tenant_id)
            begun = await unit.periods.begun(tenant_id)
        first = await self._reader.first_period(tenant_id)
        starts = [period_start(first)] if first else []
        starts += [tenant.created_at] if tenant else []
        return sorted({*periods_between(min([*starts, now]), now), *begun}, reverse=True)

    async def _view(self, tenant_id: TenantId, period: str) -> PeriodView:
        return (await self._books.statement(tenant_id, period)).view

    def _require_begun(self, period: str, pointer: str = "/path/period") -> None:
        if require_period(period, pointer) > period_of(self._clock.now_s()):
            raise NotFound("This period has not begun.")


def _together(period: str, views: Sequence[PeriodView]) -> AllTenants:
    """Return many tenants' period as one. Its digest is over those of the tenants, in order of their ids."""
    tenants = {state: sum(view.state is state for view in views) for state in PeriodState}
    state = PeriodState.CLOSING
    if tenants[PeriodState.OPEN] == len(views) and views:
        state = PeriodState.OPEN
    elif tenants[PeriodState.CLOSED] == len(views):
        state = PeriodState.CLOSED
    digests = "".join(
        f"{view.tenant_id} {view.totals.sha256}\n" for view in sorted(views, key=lambda view: view.tenant_id)
    )
    totals = [view.totals for view in views]
    currencies = {each.currency for each in totals if each.amount_micros}
    return AllTenants(
        period=period,
        state=state,
        tenants=tenants,
        totals=ControlTotals(
            events=sum(each.events for each in totals),
            adjustments=sum(each.adjustments for each in totals),
            units=sum(each.units for each in totals),
            billable_units=sum(each.billable_units for each in totals),
            amount_micros=sum(each.amount_micros for each in totals),
            currency=next(iter(currencies), FREE.currency) if len(currencies) < 2 else "XXX",  # noqa: PLR2004
            first_position=None,
            last_position=None,
            sha256=hashlib.sha256(digests.encode()).hexdigest() if state is PeriodState.CLOSED else None,
        ),
    )
