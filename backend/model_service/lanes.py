"""Lanes: batch when busy, never wait when idle.

One worker thread per process. When it is free it takes one lane's rows, up to ``max_batch_rows``, and runs them; what
arrives meanwhile is the next batch. There is no timer, so a lone caller waits for nothing and a crowd is batched by the
time the model itself takes. A worker that rests is woken once a turn of an event loop, when all who asked in it have
queued their rows: else it would begin with the first of them. Lanes take turns, and within a lane shares do.

A call that runs longer than ``stuck_after_s`` cannot be stopped: its lane is refused until it returns, a fresh thread
serves the other lanes, and health tells. Idle threads block; none ever polls.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from time import monotonic
from typing import Final

from backend.domain.errors import ConcurrencyExceeded, ForecourtError, ModelUnavailable, Overloaded
from backend.model_service.batching import count_batch, run_batch
from backend.model_service.calls import Call, Reply, Work, deliver
from backend.model_service.lane import Execute, Lane, LaneKey, Outcome
from backend.model_service.lane_limits import LaneLimits
from backend.model_service.manifest import Row
from backend.model_service.meters import ModelMeter

logger = logging.getLogger(__name__)

_RETRY_AFTER_S: Final = 1


class Lanes:
    """The worker thread and its queues. Callers may be on several event loops."""

    def __init__(self, limits: LaneLimits, *, prepare_thread: Callable[[], object] | None = None) -> None:
        self._limits = limits
        self._prepare_thread = prepare_thread
        self._lock = threading.Lock()
        self._work_ready = threading.Condition(self._lock)
        self._watch = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._lanes: dict[LaneKey, Lane] = {}
        self._turns: deque[Lane] = deque()  # the lanes with queued rows, each once
        self._resting = 0  # threads that wait for work
        self._waking: set[asyncio.AbstractEventLoop] = set()
        self._waiting_rows = 0
        self._worker: threading.Thread | None = None
        self._workers = 0
        self._watchdog: threading.Thread | None = None
        self._watching = False
        self._closing = False
        self._is_drained = False
        self._stopped = False

    def start(self) -> None:
        """Start the threads; once."""
        with self._lock:
            if self._worker is not None or self._closing:
                raise RuntimeError("the lanes were started before")
            self._watchdog = threading.Thread(target=self._watch_runs, name="model-watchdog", daemon=True)
            self._watchdog.start()
            self._start_worker()

    async def submit(
        self,
        key: LaneKey,
        execute: Execute,
        rows: Sequence[Row],
        spellings: Sequence[bytes],
        *,
        share: str,
        deadline_s: float | None = None,
        meter: ModelMeter | None = None,
    ) -> list[bytes]:
        """Queue rows and wait for their answers, in order.

        Args:
            key: the lane; calls with one key are computed together by the first one's ``execute``.
            execute: computes rows; runs on the worker thread.
            rows: at least one.
            spellings: per row, equal for equal rows.
            share: whose turn it uses.
            deadline_s: the longest wait that is of use to the caller.
            meter: where the lane's batches and waits are counted.

        Raises:
            Overloaded: closed, stuck, full, or the wait would be too long.
            ConcurrencyExceeded: the share's own rows fill its part.
            ModelUnavailable: the model failed on these rows.
        """
        with self._lock:
            lane = self._lane(key, execute, meter)
            self._admit(lane, len(rows), share, deadline_s)
            call = Call(share, len(rows))
            self._waiting_rows += call.size
            was_empty = not lane.queued
            lane.add(call, rows, spellings)
            if was_empty and lane.queued:
                self._turns.append(lane)
            if self._resting and call.loop not in self._waking:
                self._waking.add(call.loop)
                call.loop.call_soon(self._wake, call.loop)
        try:
            return await call.future
        except asyncio.CancelledError:
            with self._lock:
                if call.open:
                    lane.close(call)
                    self._waiting_rows -= call.size
            raise

    def retire(self, keys: Iterable[LaneKey]) -> None:
        """Forget lanes, and with them the models that their calls hold, once nothing is queued or running in them."""
        with self._lock:
            for key in keys:
                lane = self._lanes.get(key)
                if lane is not None:
                    lane.retired = True
                    self._forget_if_done(lane)

    def stuck_models(self) -> frozenset[str]:
        """Return the models of which a call has been running for too long."""
        with self._lock:
            return frozenset(lane.key.model for lane in self._lanes.values() if lane.stuck)

    def renew_worker(self) -> None:
        """Let a thread that is prepared now take the place of the one that runs, once that has done its batch."""
        with self._lock:
            if self._worker is not None and not self._closing:
                self._start_worker()
                self._work_ready.notify_all()

    @property
    def is_open(self) -> bool:
        """Whether rows may be computed: it was started and has not been closed. For those that need no thread."""
        return self._worker is not None and not self._closing

    def is_serving(self) -> bool:
        """Whether new rows are taken."""
        with self._lock:
            return not self._closing and self._worker is not None and self._worker.is_alive()

    async def aclose(self) -> None:
        """Refuse new rows, finish what is queued, stop the threads; within ``drain_s``. A second call does nothing."""
        with self._lock:
            if self._closing or self._worker is None:
                self._closing = True
                return
            self._closing = True
            self._work_ready.notify_all()
        # A thread, because joining blocks and this loop must deliver the last answers.
        await asyncio.to_thread(self._drain)

    def _lane(self, key: LaneKey, execute: Execute, meter: ModelMeter | None) -> Lane:
        if self._closing or self._worker is None or not self._worker.is_alive():
            raise Overloaded("The service is not taking predictions at the moment.", retry_after_s=_RETRY_AFTER_S)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, execute, self._limits.quantum_rows, meter)
        return lane

    def _admit(self, lane: Lane, size: int, share: str, deadline_s: float | None) -> None:
        if lane.stuck:
            raise Overloaded("This model is not answering at the moment.", retry_after_s=_RETRY_AFTER_S)
        if lane.waiting_rows(share) + size > self._limits.max_share_rows:
            raise ConcurrencyExceeded(retry_after_s=_RETRY_AFTER_S)
        if self._waiting_rows + size > self._limits.max_waiting_rows:
            raise Overloaded("Too many predictions are waiting.", retry_after_s=_RETRY_AFTER_S)
        wait_s = sum(ceil(each.queued / self._limits.max_batch_rows) * each.run_s for each in self._turns)
        if wait_s > self._limits.max_wait_s or (deadline_s is not None and wait_s > deadline_s):
            raise Overloaded("The wait would be too long.", retry_after_s=ceil(wait_s))

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have what was queued in a turn of a loop run, unless it has been taken."""
        with self._lock:
            self._waking.discard(loop)
            if self._turns:
                self._work_ready.notify()

    def _forget_if_done(self, lane: Lane) -> None:
        if lane.retired and not lane.queued and lane.running_since_s is None:
            self._lanes.pop(lane.key, None)

    # -- the worker thread ---------------------------------------------------------------------------------------

    def _start_worker(self) -> None:
        # A daemon, so that a call that never returns does not keep the process alive.
        self._workers += 1
        self._worker = threading.Thread(target=self._work, name=f"model-worker-{self._workers}", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        if self._prepare_thread is not None:
            self._prepare_thread()
        while (found := self._next_batch()) is not None:
            lane, batch = found
            count_batch(lane, batch)
            outcomes = run_batch(lane, batch)
            with self._lock:
                replies = self._finish(lane, batch, outcomes)
            deliver(replies)

    def _next_batch(self) -> tuple[Lane, list[Work]] | None:
        """Wait for rows; None ends the thread: all is done, or another one took its place while it was stuck."""
        with self._lock:
            while self._worker is threading.current_thread():
                while self._turns:
                    lane = self._turns.popleft()
                    batch = lane.take(self._limits.max_batch_rows)
                    if lane.queued:
                        self._turns.append(lane)
                    if batch:
                        self._begin(lane, batch)
                        return lane, batch
                if self._closing:
                    self._is_drained = True
                    self._drained.notify_all()
                    return None
                self._resting += 1
                self._work_ready.wait()
                self._resting -= 1
            return None

    def _begin(self, lane: Lane, batch: list[Work]) -> None:
        lane.begin(batch)
        if not self._watching:
            self._watching = True
            self._watch.notify()

    def _finish(self, lane: Lane, batch: Sequence[Work], outcomes: Sequence[Outcome]) -> list[Reply]:
        replies = lane.settle(batch, outcomes)
        lane.end()
        if lane.queued and lane not in self._turns:
            # Rows that were dropped and are wanted again.
            self._turns.append(lane)
        self._forget_if_done(lane)
        self._waiting_rows -= sum(reply.call.size for reply in replies)
        return replies

    # -- the watchdog thread -------------------------------------------------------------------------------------

    def _watch_runs(self) -> None:
        """Sleep until the oldest run would be stuck, or without end while nothing runs."""
        while (replies := self._next_stuck()) is not None:
            deliver(replies)

    def _next_stuck(self) -> list[Reply] | None:
        with self._lock:
            while not self._stopped:
                running = [lane for lane in self._lanes.values() if lane.running_since_s is not None and not lane.stuck]
                if not running:
                    self._watching = False
                    self._watch.wait()
                    continue
                oldest = min(running, key=lambda lane: lane.running_since_s or 0.0)
                left_s = (oldest.running_since_s or 0.0) + self._limits.stuck_after_s - monotonic()
                if left_s <= 0:
                    return self._give_up(oldest)
                # A run that begins meanwhile ends its time later than this one, so it need not wake anybody.
                self._watch.wait(left_s)
            return None

    def _give_up(self, lane: Lane) -> list[Reply]:
        logger.error("model %s: a call has been running for more than %s s", lane.key.model, self._limits.stuck_after_s)
        lane.stuck = True
        if lane in self._turns:
            self._turns.remove(lane)
        replies = lane.empty(
            lambda: ModelUnavailable("The model did not answer in time.", retry_after_s=_RETRY_AFTER_S),
            lambda: Overloaded("This model is not answering at the moment.", retry_after_s=_RETRY_AFTER_S),
        )
        self._waiting_rows -= sum(reply.call.size for reply in replies)
        # The thread inside the call ends when it comes back and finds that it is not the worker any more.
        self._start_worker()
        return replies

    # -- shutdown ------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        ended = [self._watchdog]
        with self._lock:
            # Not a join: the worker may get stuck, and another one finish in its place.
            if self._drained.wait_for(lambda: self._is_drained, self._limits.drain_s):
                ended.append(self._worker)
            self._stopped = True
            self._worker = None
            self._watch.notify_all()
            replies = [reply for lane in self._lanes.values() for reply in lane.empty(_shutting_down, _shutting_down)]
            self._turns.clear()
            self._waiting_rows = 0
        deliver(replies)
        for thread in ended:
            if thread is not None:
                thread.join()


def _shutting_down() -> ForecourtError:
    return Overloaded("The service is shutting down.", retry_after_s=_RETRY_AFTER_S)
