"""One lane: the queued rows of one model and one set of options, and the callers who wait for them.

Shares take turns by deficit round-robin (Shreedhar and Varghese, 1995), with a row as the unit: a share that queues a
thousand rows does not delay one that queues a single row by more than the turns before it. The same row sent twice by
one share is one piece of work. Nothing here locks: :mod:`backend.model_service.lanes` holds its lock around every call.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeAlias

from backend.domain.errors import ForecourtError, ModelUnavailable
from backend.domain.models import OutputOptions
from backend.model_service.calls import Call, Reply, Work
from backend.model_service.manifest import Row
from backend.model_service.meters import ModelMeter

Execute: TypeAlias = Callable[[Sequence[Row]], Sequence[bytes]]
Refusal: TypeAlias = Callable[[], ForecourtError]
Outcome: TypeAlias = bytes | BaseException | None

_LATEST_RUN_WEIGHT: Final = 0.2


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What may be computed together: one version of one model, with the same options."""

    model: str
    digest: str
    options: OutputOptions


class _Turn:
    """A share's queued rows; ``deficit`` is how many it may still give in its present turn."""

    __slots__ = ("deficit", "works")

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self.deficit = 0


class Lane:
    """A lane's rows: queued, running, and who waits for them."""

    def __init__(self, key: LaneKey, execute: Execute, quantum_rows: int, meter: ModelMeter | None = None) -> None:
        self.key = key
        self.meter = meter
        self.execute = execute
        self.queued = 0
        self.running: list[Work] = []
        self.running_since_s: float | None = None
        self.run_s = 0.0
        self.stuck = False
        self.retired = False
        self._quantum_rows = quantum_rows
        self._turns: OrderedDict[str, _Turn] = OrderedDict()
        self._in_flight: dict[tuple[str, bytes], Work] = {}
        self._waiting_rows: dict[str, int] = {}

    def waiting_rows(self, share: str) -> int:
        """How many rows a share's open calls hold here."""
        return self._waiting_rows.get(share, 0)

    def add(self, call: Call, rows: Sequence[Row], spellings: Sequence[bytes]) -> None:
        """Queue a call's rows, or let it wait for the same rows of its share that are in flight."""
        self._waiting_rows[call.share] = self.waiting_rows(call.share) + call.size
        for place, (row, spelling) in enumerate(zip(rows, spellings, strict=True)):
            key = (call.share, spelling)
            work = self._in_flight.get(key)
            if work is None:
                work = self._in_flight[key] = Work(key, row)
                self._queue(work)
            elif self.meter is not None:
                self.meter.single_flight.add()
            work.waiters.append((call, place))

    def take(self, limit_rows: int) -> list[Work]:
        """Take the next batch; rows for which nobody waits any more are dropped on the way."""
        batch: list[Work] = []
        while self._turns and len(batch) < limit_rows:
            share, turn = next(iter(self._turns.items()))
            turn.deficit = turn.deficit or self._quantum_rows
            while turn.works and turn.deficit and len(batch) < limit_rows:
                work = turn.works.popleft()
                self.queued -= 1
                if work.wanted():
                    turn.deficit -= 1
                    batch.append(work)
                else:
                    del self._in_flight[work.key]
            if not turn.works:
                del self._turns[share]
            elif not turn.deficit:
                self._turns.move_to_end(share)
        return batch

    def begin(self, batch: list[Work]) -> None:
        """Note that a batch runs from now on."""
        self.running = batch
        self.running_since_s = monotonic()

    def end(self) -> None:
        """Note that it has run; unless it was stuck, its time counts for the waits that are expected."""
        if self.running_since_s is not None and not self.stuck:
            run_s = monotonic() - self.running_since_s
            self.run_s += (run_s - self.run_s) * (_LATEST_RUN_WEIGHT if self.run_s else 1.0)
        self.running = []
        self.running_since_s = None
        self.stuck = False

    def settle(self, batch: Sequence[Work], outcomes: Sequence[Outcome]) -> list[Reply]:
        """Hand out a batch's outcomes; return the calls that are complete or failed by them."""
        replies: list[Reply] = []
        for work, outcome in zip(batch, outcomes, strict=True):
            if self._in_flight.get(work.key) is not work:
                continue  # the lane was emptied meanwhile
            if outcome is None and work.wanted():
                # Dropped when nobody waited, and somebody has come since.
                self._queue(work)
                continue
            del self._in_flight[work.key]
            replies.extend(self._answer(work, outcome))
        return replies

    def close(self, call: Call) -> None:
        """Forget a call: it was answered, was refused, or left."""
        call.open = False
        rows = self._waiting_rows[call.share] - call.size
        if rows:
            self._waiting_rows[call.share] = rows
        else:
            del self._waiting_rows[call.share]

    def empty(self, running_error: Refusal, queued_error: Refusal) -> list[Reply]:
        """Refuse every call: those with a row in the running batch, and those that only wait."""
        replies = self._refuse(self.running, running_error)
        replies += self._refuse(list(self._in_flight.values()), queued_error)
        self._in_flight.clear()
        self._turns.clear()
        self.queued = 0
        return replies

    def _queue(self, work: Work) -> None:
        share = work.key[0]
        turn = self._turns.get(share)
        if turn is None:
            turn = self._turns[share] = _Turn()
        turn.works.append(work)
        self.queued += 1

    def _answer(self, work: Work, outcome: Outcome) -> list[Reply]:
        if not isinstance(outcome, bytes):
            return self._refuse([work], lambda: ModelUnavailable("The model failed on these rows."))
        replies: list[Reply] = []
        for call, place in work.waiters:
            call.answers[place] = outcome
            call.left -= 1
            if call.open and not call.left:
                self.close(call)
                replies.append(Reply(call, None))
        return replies

    def _refuse(self, works: Sequence[Work], error: Refusal) -> list[Reply]:
        replies: list[Reply] = []
        for work in works:
            for call, _ in work.waiters:
                if call.open:
                    self.close(call)
                    # One exception per caller: each gathers its own traceback.
                    replies.append(Reply(call, error()))
        return replies
