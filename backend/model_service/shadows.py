"""Shadow targets: a version that is given the rows of the others as well, to see how it would have answered.

``{"shadow": "4"}`` among a model's aliases: whatever any other version of the model computes, version 4 computes once
more afterwards, on a thread of its own. Its answers go nowhere: they are compared, counted, and forgotten. Nothing that
it does reaches a caller: it is handed rows that were answered already, it is left out where it is behind, it may fail
or hang, and it is neither admitted nor billed. Rows that the response cache answers are not computed, nor shadowed.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from backend.domain.errors import SchemaMismatch
from backend.domain.models import OutputOptions
from backend.model_service.encoding import TypedRows
from backend.model_service.manifest import Row
from backend.model_service.meters import ShadowMeter, ShadowOutcome

logger = logging.getLogger(__name__)

MAX_WAITING_ROWS: Final = 2_000
"""What a shadow is behind by, at the most; what comes then is dropped and counted."""
_SAME: Final = 1e-6


class ShadowTarget(Protocol):
    """The version in the shadow."""

    def encode(self, inputs: Sequence[object]) -> TypedRows:
        """Check rows against its own inputs."""
        ...

    def compute(self, rows: Sequence[Row], options: OutputOptions) -> Sequence[bytes]:
        """Predict on the calling thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    shadow: "Shadow"
    rows: Sequence[Row]
    options: OutputOptions
    answers: Sequence[bytes]


class ShadowWorker:
    """The thread on which all shadows run, one after the other. It blocks while there is nothing to do."""

    def __init__(
        self, *, max_waiting_rows: int = MAX_WAITING_ROWS, prepare_thread: Callable[[], object] | None = None
    ) -> None:
        self._max_waiting_rows = max_waiting_rows
        self._prepare_thread = prepare_thread
        self._jobs: deque[_Job] = deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._closed = False

    def offer(self, job: _Job) -> bool:
        """Take a job, or not: when too much waits already. Never blocks for longer than it takes to append."""
        with self._changed:
            if self._closed or self._waiting_rows + len(job.rows) > self._max_waiting_rows:
                return False
            self._jobs.append(job)
            self._waiting_rows += len(job.rows)
            if self._thread is None:
                # A daemon: a shadow that never returns does not keep the process alive.
                self._thread = threading.Thread(target=self._work, name="model-shadow", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing is waiting or running; whether that was so in time. Blocking."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout_s)

    def close(self) -> None:
        """Take nothing more, and let go of what waits. What runs is left to its end."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._waiting_rows = 0
            self._changed.notify_all()

    def _work(self) -> None:
        if self._prepare_thread is not None:
            self._prepare_thread()
        while (job := self._next()) is not None:
            job.shadow.compare(job.rows, job.options, job.answers)
            job = None  # the version must not live until the next job comes

    def _next(self) -> _Job | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return None
            job = self._jobs.popleft()
            # Counted until it is taken: what runs is one job more.
            self._waiting_rows -= len(job.rows)
            self._busy = True
            return job


class Shadow:
    """One version beside the shadow target of its model."""

    def __init__(
        self, target: ShadowTarget, *, names: Sequence[str], label: str, meter: ShadowMeter, worker: ShadowWorker
    ) -> None:
        self.target = target
        self._names = tuple(names)
        self._label = label
        self._meter = meter
        self._worker = worker

    def offer(self, rows: Sequence[Row], options: OutputOptions, answers: Sequence[bytes]) -> None:
        """Hand over rows that were answered. Costs a microsecond or two, whatever the shadow is up to."""
        if not self._worker.offer(_Job(shadow=self, rows=rows, options=options, answers=answers)):
            self._meter.rows[ShadowOutcome.DROPPED].add(len(rows))

    def compare(self, rows: Sequence[Row], options: OutputOptions, answers: Sequence[bytes]) -> None:
        """Compute rows again and count how the answers compare. Raises nothing."""
        try:
            # By name: the shadow may take its inputs in another order, or take others altogether.
            own = self.target.encode([dict(zip(self._names, row, strict=True)) for row in rows])
            found = self.target.compute(own.rows, options)
            for answered, shadowed in zip(answers, found, strict=True):
                self._count(orjson.loads(answered), orjson.loads(shadowed))
        except SchemaMismatch:
            self._meter.rows[ShadowOutcome.UNFIT].add(len(rows))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code, and nobody waits for it
            self._meter.rows[ShadowOutcome.FAILED].add(len(rows))
            logger.warning("shadow %s failed: %s", self._label, type(error).__name__)

    def _count(self, answered: dict[str, Any], shadowed: dict[str, Any]) -> None:
        difference = _difference(answered, shadowed)
        if difference is not None:
            self._meter.difference.observe(difference)
        if "label" in answered:
            agrees = answered["label"] == shadowed.get("label")
        else:
            agrees = difference is not None and difference <= _SAME * max(1.0, abs(answered["value"]))
        self._meter.rows[ShadowOutcome.AGREED if agrees else ShadowOutcome.DIFFERED].add()


def _difference(answered: dict[str, Any], shadowed: dict[str, Any]) -> float | None:
    """Return the largest difference of a value or a probability; None where there are no numbers to compare."""
    if "value" in answered and "value" in shadowed:
        return abs(float(answered["value"]) - float(shadowed["value"]))
    one, other = answered.get("probabilities"), shadowed.get("probabilities")
    if not one or not other:
        return None
    return max(abs(float(one.get(name, 0.0)) - float(other.get(name, 0.0))) for name in {*one, *other})
