"""The ledger's writer: group commit.

While one commit runs, the events that arrive collect; the next commit takes them all, and those that are just arriving.
There is no timer: an idle system writes one row at once, a busy one hundreds in a commit. An event is durable when
:meth:`append` returns: in the database, or where it waits for the database.

A commit is mostly a wait for a disk. Were there one at a time, callers who were answered together would come back
together, and the process would rest while their events are written: so a second commit may run beside the first, as
soon as it is worth one, and a crowd is split between them. Which commits first does not matter: events of different
callers have no order among themselves, and a reader stops below whatever is still being written.

The writer decides where a batch goes, not the callers: one of them may have left, and its event is written all the
same. Once the database has failed, batches go straight to the spill until a probe has found it well.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from backend.adapters.breaker import BreakerState
from backend.adapters.db.event_store import SqlEventStore
from backend.adapters.db.unit_of_work import Database
from backend.adapters.probed_breaker import ProbedBreaker
from backend.adapters.usage_spill import NoSpill, Stored, UsageSpill
from backend.domain.clock import Clock
from backend.domain.errors import MeteringUnavailable
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.ids import TenantId
from backend.domain.records import record
from backend.domain.usage import UsageEvent
from backend.services.ports import Metrics

log = logging.getLogger(__name__)

WRITE_WITHIN_S = 2.0

AT_ONCE = 2
"""Commits beside each other. SQLite has one writer at a time anyhow."""

WORTH_A_COMMIT = 8
"""Events for which a commit begins though more are arriving, and a second one before the first has ended. A statement
costs both sides as much as several events do."""

WORTH_THE_FILE = 16
"""The same of a commit to a file. It is this process that writes there, which takes as long as a few predictions, and
callers who were answered together come back together."""


@record(frozen=True, slots=True)
class _Pending:
    event: UsageEvent
    written: asyncio.Future[None]
    meanwhile: Callable[[], object] | None

    def end(self, error: Exception | None = None) -> None:
        """Let the caller go on, if it still waits."""
        if self.written.done():
            return
        if error is None:
            self.written.set_result(None)
            return
        self.written.set_exception(error)
        # The caller may be gone; then nobody else would take the exception.
        self.written.exception()


class EventConflict(MeteringUnavailable):
    """The ledger holds this event id with another content (LEDGER.md R4)."""

    default_detail = "This usage event contradicts the ledger."


class GroupCommitLedger:
    """Writes usage events in batches that form by themselves.

    Args:
        database: with connections of its own, see ``SqlEventStore``.
        metrics: where batches, failures and the breaker are counted.
        spill: takes what the database cannot; without one it is refused.
        clock: decides which months are over, so that their events may be late.
        within_s: bound on the database's part of a batch.
        max_batch: events in one commit.
        max_pending: events that wait for a commit; beyond it they are refused.
    """

    def __init__(
        self,
        database: Database,
        *,
        metrics: Metrics,
        spill: UsageSpill | NoSpill | None = None,
        clock: Clock | None = None,
        within_s: float = WRITE_WITHIN_S,
        max_batch: int = 500,
        max_pending: int = 20_000,
    ) -> None:
        self._database = database
        self._store = SqlEventStore(database, within_s=within_s, metrics=metrics, clock=clock)
        self._spill = spill or NoSpill()
        self._breaker = ProbedBreaker("ledger", self._store.probe, metrics=metrics)
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._pending: list[_Pending] = []
        self._at_once = 1 if database.engine.dialect.name == "sqlite" else AT_ONCE
        self._writers: set[asyncio.Task[None]] = set()
        self._writing = 0
        self._will_look = False
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batches = metrics.histogram(
            "forecourt_ledger_batch_events", "Usage events in one commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self._spilled = metrics.counter("forecourt_spill_events_total", "Usage events spilled instead of committed.")
        self._refused = metrics.counter("forecourt_ledger_refused_events_total", "Usage events that nobody could take.")

    def start(self) -> None:
        """Take events from now on, on the event loop that runs."""
        self._is_open = True
        # Kept: to ask which one runs is a system call.
        self._loop = asyncio.get_running_loop()

    async def append(
        self, tenant_id: TenantId, event: UsageEvent, meanwhile: Callable[[], object] | None = None
    ) -> None:
        """Return once the event is durable, exactly once; ``meanwhile`` is called when it is on its way."""
        if event.tenant_id != tenant_id:
            raise ValueError("an event may only be booked on its own tenant")
        loop = self._loop
        if not self._is_open or loop is None or len(self._pending) >= self._max_pending:
            raise MeteringUnavailable(retry_after_s=1)
        entry = _Pending(event, loop.create_future(), meanwhile)
        self._pending.append(entry)
        self._begin_commit()
        # A caller who leaves takes only this future with him: the model has answered, and the row is written.
        await entry.written

    def prepare(self, event: UsageEvent) -> None:
        """Do what can be done already of writing an event that will probably be appended soon."""
        self._store.prepare(event)

    async def write(self, events: Sequence[UsageEvent]) -> list[Stored]:
        """Write events to the database at once, not to the spill: for what comes out of it.

        Raises:
            MeteringUnavailable: the database does not take them, or did not shortly before.
        """
        if self._breaker.is_open:
            raise MeteringUnavailable(retry_after_s=1)
        try:
            outcomes = await self._store.write(events)
        except MeteringUnavailable as error:
            self._breaker.failed(type(error.__cause__).__name__)
            raise
        self._breaker.succeeded()
        return outcomes

    async def aclose(self) -> None:
        """Write what is pending, then stop."""
        self._is_open = False
        self._begin_commit()
        while self._writers:
            await asyncio.wait(self._writers)
        await self._breaker.aclose()
        await self._store.aclose()

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Say whether usage can be made durable: in the database, or else where it waits for it."""
        name = "ledger"
        if self._breaker.state is BreakerState.HALF_OPEN:
            # It has to get requests to find out whether all is well.
            detail = "the database answers again, the next batch will tell"
            return (ResourceHealth(name=name, status=HealthStatus.DEGRADED, detail=detail),)
        if self._breaker.state is BreakerState.CLOSED:
            [database] = await self._database.check()
            if database.status is HealthStatus.OK:
                return (ResourceHealth(name=name, status=HealthStatus.OK),)
        try:
            waiting = await self._spill.waiting()
        except MeteringUnavailable:
            detail = "usage cannot be made durable"
            return (ResourceHealth(name=name, status=HealthStatus.DOWN, detail=detail),)
        detail = f"usage is kept until the database can take it: {waiting} events wait"
        return (ResourceHealth(name=name, status=HealthStatus.DEGRADED, detail=detail),)

    def _begin_commit(self) -> None:
        """Have a commit begin in the next turn of the loop, if one is worth it. Who appends until then comes along."""
        waiting = len(self._pending)
        if self._will_look or self._writing >= self._at_once or waiting < (WORTH_A_COMMIT if self._writing else 1):
            return
        self._will_look = True
        task = asyncio.create_task(self._write_pending(), name="ledger-commit")
        self._writers.add(task)
        task.add_done_callback(self._writers.discard)

    async def _write_pending(self) -> None:
        """Write batches as long as there is one that is worth it."""
        await self._gather()
        self._will_look = False
        while batch := self._take_batch():
            # What is left over may be worth another commit beside this one.
            self._writing += 1
            self._begin_commit()
            # In the next turn of the loop: by then the batch has left.
            asyncio.get_running_loop().call_soon(_use_the_wait, batch)
            try:
                await self._write(batch)
            finally:
                self._writing -= 1
            await self._gather()

    async def _gather(self) -> None:
        """Put a commit off while each turn of the loop brings more for it, until it is worth one."""
        worth = WORTH_THE_FILE if self._at_once == 1 else WORTH_A_COMMIT
        seen = 0
        while seen < (waiting := len(self._pending)) < worth:
            self._will_look = True
            seen = waiting
            await asyncio.sleep(0)
        if seen:
            self._will_look = False

    def _take_batch(self) -> list[_Pending]:
        waiting, free = len(self._pending), self._at_once - self._writing
        if not free or (self._writing and waiting < WORTH_A_COMMIT):
            return []
        size = min(self._max_batch, waiting if waiting < 2 * WORTH_A_COMMIT else -(-waiting // free))
        batch, self._pending = self._pending[:size], self._pending[size:]
        return batch

    async def _write(self, batch: list[_Pending]) -> None:
        try:
            await (self._put_by(batch) if self._breaker.is_open else self._commit(batch))
        except Exception as error:  # whatever it is: a writer that dies leaves its callers waiting
            log.exception("ledger writer failed", exc_info=error)
            _refuse(batch)
        except asyncio.CancelledError:
            # The loop itself is being torn down.
            _refuse(batch)
            raise

    async def _commit(self, batch: list[_Pending]) -> None:
        try:
            outcomes = await self.write([entry.event for entry in batch])
        except MeteringUnavailable:
            await self._put_by(batch)
            return
        self._batches.observe(len(batch))
        for entry, outcome in zip(batch, outcomes, strict=True):
            match outcome:
                case Stored.DURABLE:
                    entry.end()
                case Stored.CONFLICT:
                    entry.end(EventConflict())
                case Stored.UNFIT:
                    entry.end(MeteringUnavailable(retry_after_s=1))

    async def _put_by(self, batch: list[_Pending]) -> None:
        """Keep a batch until the database can take it; refuse what there is no room for."""
        try:
            taken = await self._spill.put([entry.event for entry in batch])
        except MeteringUnavailable:
            taken = 0
        self._spilled.add(taken)
        for entry in batch[:taken]:
            entry.end()
        self._refused.add(len(batch) - taken)
        _refuse(batch[taken:])


def _use_the_wait(batch: list[_Pending]) -> None:
    for entry in batch:
        if entry.meanwhile is not None and not entry.written.done():
            entry.meanwhile()


def _refuse(batch: list[_Pending]) -> None:
    for entry in batch:
        entry.end(MeteringUnavailable(retry_after_s=1))
