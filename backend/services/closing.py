"""Closing a month, tenant by tenant (LEDGER.md R7, R10, R15).

Each tenant goes through three durable steps: nothing, closing, closed. Closing settles which events belong to the
period; closed keeps what they come to. Between the two everything is computed from rows that do not change any more,
so a process that is killed anywhere leaves a close that the next attempt finishes with the same totals, and two that
close at once come to the same.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta

from backend.domain.api_keys import Environment
from backend.domain.audit import SYSTEM, Action, Actor, AuditEntry
from backend.domain.billing_periods import ClosedPeriod, Comparison, PeriodState, period_end
from backend.domain.clock import Clock
from backend.domain.errors import (
    FieldError,
    ForecourtError,
    MeteringUnavailable,
    NotFound,
    ReconciliationMismatch,
    Unavailable,
    WatermarkBehind,
)
from backend.domain.ids import TenantId
from backend.domain.period_folds import PeriodFold
from backend.domain.usage import COMPLETE_AFTER
from backend.domain.webhooks import WebhookEvent
from backend.services.announcements import announce
from backend.services.billing import pages_of, statement_lines
from backend.services.ports import Admission, Store, UsageReader, WaitingUsage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """How far a close got: tenants by state, and what keeps each of the others from it."""

    period: str
    closed: int
    closing: int
    failures: dict[TenantId, ForecourtError] = field(default_factory=dict)

    @property
    def state(self) -> PeriodState:
        """The state of the whole."""
        return PeriodState.CLOSING if self.closing or self.failures else PeriodState.CLOSED

    def refuse(self) -> None:
        """Refuse a close that somebody has to look at.

        Raises:
            ReconciliationMismatch, WatermarkBehind, ForecourtError: naming the tenants. The others are closed.
        """
        if not self.failures:
            return
        problems = tuple(
            each
            for tenant_id, error in self.failures.items()
            for each in error.errors or (FieldError(f"/tenants/{tenant_id}", error.detail),)
        )[:100]
        found = list(self.failures.values())
        for kind in (ReconciliationMismatch, WatermarkBehind, Unavailable):
            if first := next((error for error in found if isinstance(error, kind)), None):
                raise type(first)(errors=problems, retry_after_s=first.retry_after_s)
        raise type(found[0])(found[0].detail, errors=problems)


class PeriodCloser:
    """Closes periods.

    Args:
        store: the books.
        reader: the ledger.
        waiting: knows what the ledger does not hold yet.
        admission: knows what was settled.
        clock: decides when a month is over.
        grace_s: how long after a month's end its usage may still be on its way into the ledger, by any replica's clock.
    """

    def __init__(
        self,
        *,
        store: Store,
        reader: UsageReader,
        waiting: WaitingUsage,
        admission: Admission,
        clock: Clock,
        grace_s: float,
    ) -> None:
        self._store = store
        self._reader = reader
        self._waiting = waiting
        self._admission = admission
        self._clock = clock
        self._grace = timedelta(seconds=grace_s)

    async def close(
        self,
        actor: Actor,
        period: str,
        *,
        only: str | None = None,
        accepted: str | None = None,
        budget_s: float | None = None,
    ) -> CloseReport:
        """Close a period for every tenant, or for one. What is closed stays as it is.

        Args:
            actor: who closes.
            period: the month.
            only: the one tenant to close.
            accepted: why a difference between ledger and quota is no reason to wait; the ledger counts.
            budget_s: after so many seconds no further tenant is begun. Those that are closing are finished later.

        Raises:
            WatermarkBehind: the month is not over for long enough.
            NotFound: there is no such tenant.
        """
        self._require_over(period)
        async with self._store.unit_of_work(read_only=True) as unit:
            tenants = [tenant.id for tenant in await unit.tenants.list_all()]
            closed = await unit.periods.closed_of_all_tenants(period)
        if only is not None:
            if only not in tenants:
                raise NotFound("There is no such tenant.")
            tenants = [TenantId(only)]
        waiting = [tenant_id for tenant_id in tenants if tenant_id not in closed]
        until_s = None if budget_s is None else asyncio.get_running_loop().time() + budget_s
        failures: dict[TenantId, ForecourtError] = {}
        done = len(tenants) - len(waiting)
        for tenant_id in waiting:
            if until_s is not None and asyncio.get_running_loop().time() > until_s:
                break
            error = await self._try(actor, tenant_id, period, accepted)
            if error is None:
                done += 1
            else:
                failures[tenant_id] = error
        return CloseReport(period=period, closed=done, closing=len(tenants) - done - len(failures), failures=failures)

    async def finish(self) -> int:
        """Finish what began to close and was cut off; return how many periods were closed."""
        async with self._store.unit_of_work(read_only=True) as unit:
            unfinished = await unit.periods.unfinished_of_all_tenants()
        count = 0
        for tenant_id, period in unfinished:
            count += await self._try(SYSTEM, tenant_id, period, None) is None
        return count

    async def compare(self, tenant_id: TenantId, period: str) -> tuple[Comparison, ...]:
        """Return what the ledger holds beside what was settled, for each environment.

        Raises:
            EnforcementUnavailable: what was settled cannot be read.
        """
        return tuple(
            [
                Comparison(
                    environment=environment,
                    ledger_units=await self._reader.units_in_period(tenant_id, environment, period, None),
                    settled_units=await self._admission.settled_units(tenant_id, environment, period),
                )
                for environment in Environment
            ]
        )

    async def close_one(self, actor: Actor, tenant_id: TenantId, period: str, accepted: str | None) -> None:
        """Close a period for one tenant.

        Raises:
            ReconciliationMismatch: ledger and quota differ, and nobody accepted it.
            WatermarkBehind: a transaction that may add to the period is still running, or usage of it still waits for
                the ledger.
            Unavailable: nobody can say whether any waits, and nobody accepted a difference.
        """
        await self._require_booked(period, accepted)
        if accepted is None:
            await self._require_agreement(tenant_id, period)
        async with self._store.unit_of_work() as unit:
            await unit.periods.hold(tenant_id, period)
            await unit.periods.begin_close(tenant_id, period, self._clock.now())
        async with self._store.unit_of_work(read_only=True) as unit:
            if await unit.periods.state(tenant_id, period) is PeriodState.CLOSED:
                return
            if not await unit.periods.is_settled(tenant_id, period):
                raise WatermarkBehind(retry_after_s=1)
        # Once more: what came in until then belongs to it.
        if accepted is None:
            await self._require_agreement(tenant_id, period)
        await self._keep(actor, await self._fold(tenant_id, period), accepted)

    async def _fold(self, tenant_id: TenantId, period: str) -> ClosedPeriod:
        fold = PeriodFold(tenant_id, period)
        async for page in pages_of(self._store, self._reader, tenant_id, period):
            # Off the loop: the process has requests to answer.
            await asyncio.to_thread(fold.add, page)
        if fold.usage != await self._reader.plan_usage(tenant_id, period):
            raise ReconciliationMismatch(
                errors=(FieldError(f"/tenants/{tenant_id}", "the roll-ups and the ledger disagree"),)
            )
        async with self._store.unit_of_work(read_only=True) as unit:
            lines, currency = await statement_lines(
                unit, self._reader, tenant_id, period, fold.usage, self._clock.now()
            )
        return fold.close(lines, currency, self._clock.now())

    async def _keep(self, actor: Actor, closed: ClosedPeriod, accepted: str | None) -> None:
        async with self._store.unit_of_work() as unit:
            await unit.periods.hold(closed.tenant_id, closed.period)
            if not await unit.periods.add(closed.tenant_id, closed):
                return
            totals = closed.totals
            after = {"units": totals.units, "amount_micros": totals.amount_micros, "sha256": totals.sha256}
            entry = AuditEntry(
                actor=actor,
                action=Action.PERIOD_CLOSED,
                target_id=closed.period,
                after=after | ({"accepted_difference": accepted} if accepted else {}),
            )
            await unit.audit.record(closed.tenant_id, entry)
            await announce(unit, closed.tenant_id, WebhookEvent.PERIOD_CLOSED, closed.content(), self._clock.now())

    async def _try(self, actor: Actor, tenant_id: TenantId, period: str, accepted: str | None) -> ForecourtError | None:
        """Close for one tenant; whatever is wrong with it holds up nobody else."""
        try:
            await self.close_one(actor, tenant_id, period, accepted)
        except ForecourtError as error:
            log.warning("period not closed", extra={"period": period, "tenant_id": tenant_id, "cause": error.code})
            return error
        except Exception as error:
            log.exception("period not closed", extra={"period": period, "tenant_id": tenant_id}, exc_info=error)
            return ForecourtError("This tenant's period could not be closed.")
        return None

    async def _require_booked(self, period: str, accepted: str | None) -> None:
        """Refuse while usage of the period, anybody's, has been answered and is not in the ledger."""
        try:
            oldest_at = await self._waiting.oldest_at()
        except MeteringUnavailable:
            if accepted is None:
                raise
            return
        if oldest_at is not None and oldest_at < period_end(period) + COMPLETE_AFTER:
            detail = "Usage of this period was kept while the database was away, and is not in the ledger yet."
            raise WatermarkBehind(detail, retry_after_s=1)

    async def _require_agreement(self, tenant_id: TenantId, period: str) -> None:
        differing = [each for each in await self.compare(tenant_id, period) if not each.agrees]
        if differing:
            raise ReconciliationMismatch(
                errors=tuple(
                    FieldError(
                        f"/tenants/{tenant_id}",
                        f"{each.environment}: {each.ledger_units} units in the ledger, {each.settled_units} settled",
                    )
                    for each in differing
                )
            )

    def _require_over(self, period: str) -> None:
        wait = period_end(period) + self._grace - self._clock.now()
        if wait > timedelta(0):
            raise WatermarkBehind(retry_after_s=max(1, int(wait.total_seconds()) + 1))
