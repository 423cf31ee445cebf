"""Tells an outside biller what tenants used. Any number of copies may run: each reading is sent by one at a time."""

import logging
from dataclasses import dataclass

from backend.domain.clock import Clock
from backend.domain.errors import BillerRefused, CallFailed
from backend.domain.usage_pushes import BillerCustomer, UsagePush, next_push, periods_to_push
from backend.services.ports import Biller, PeriodTotals, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What one round came to: readings that were taken, and those that were not."""

    taken: int
    failed: int


class UsagePushService:
    """Keeps a biller's totals equal to the ledger's."""

    def __init__(self, *, store: Store, totals: PeriodTotals, biller: Biller, clock: Clock) -> None:
        self._store = store
        self._totals = totals
        self._biller = biller
        self._clock = clock

    async def push(self) -> PushReport:
        """Send every reading that is due, once."""
        async with self._store.unit_of_work(read_only=True) as unit:
            customers = await unit.biller_customers.list_all()
        outcomes = [outcome for customer in customers for outcome in await self._push_tenant(customer)]
        return PushReport(taken=outcomes.count(True), failed=outcomes.count(False))

    async def push_all(self) -> int:
        """Do the same as a job that counts what it did."""
        return (await self.push()).taken

    async def _push_tenant(self, customer: BillerCustomer) -> list[bool]:
        async with self._store.unit_of_work(read_only=True) as unit:
            unfinished = await unit.usage_pushes.unfinished(customer.tenant_id, self._biller.name)
        outcomes = []
        for period in periods_to_push(self._clock.now(), unfinished):
            push = await self._begin(customer, period)
            if push is not None:
                outcomes.append(await self._send(push))
        return outcomes

    async def _begin(self, customer: BillerCustomer, period: str) -> UsagePush | None:
        """Write down what is about to be sent; it is this worker's until the lease ends."""
        total = await self._totals.of_period(customer.tenant_id, period)
        async with self._store.unit_of_work() as unit:
            before = await unit.usage_pushes.hold(customer.tenant_id, self._biller.name, period)
            push = next_push(before, customer, period, total, self._clock.now())
            if push is not None:
                await unit.usage_pushes.store(customer.tenant_id, self._biller.name, push)
            return push

    async def _send(self, push: UsagePush) -> bool:
        reading = push.reading
        try:
            await self._biller.take(reading)
        except (CallFailed, BillerRefused) as error:
            failure = error.reason.value if isinstance(error, CallFailed) else f"refused with {error.status}"
            log.warning("reading not taken", extra={"reason": failure, "count": push.attempts})
            done = push.failed(failure, self._clock.now(), retry_after_s=error.retry_after_s)
        else:
            done = push.taken(self._clock.now())
        async with self._store.unit_of_work() as unit:
            now_there = await unit.usage_pushes.hold(reading.tenant_id, self._biller.name, reading.period)
            # Whoever took longer than the lease may have been overtaken, and must not undo what came after.
            if now_there is not None and now_there == push:
                await unit.usage_pushes.store(reading.tenant_id, self._biller.name, done)
        return done.taken_at is not None
