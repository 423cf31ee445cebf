"""One loaded version of a model: its encoder, its runner, and its lanes."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from math import inf
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Final

from backend.domain.errors import ConcurrencyExceeded, ModelUnavailable, Overloaded, SchemaMismatch
from backend.domain.models import OutputOptions, Task
from backend.model_service.answers import AnswerWriter
from backend.model_service.artifacts import load_artifact
from backend.model_service.encoding import RowEncoder, TypedRows
from backend.model_service.errors import ModelRefused
from backend.model_service.lane import Execute, LaneKey
from backend.model_service.lanes import Lanes
from backend.model_service.manifest import Manifest, Row
from backend.model_service.meters import ModelMeter, SilentMetrics
from backend.model_service.onnx_runner import ONNX
from backend.model_service.rebuilt import rebuild_runner
from backend.model_service.releases import check_libraries
from backend.model_service.repository import ModelRepository
from backend.model_service.runners import SCIKIT_LEARN, Runner, class_labels, label_name
from backend.services.ports.metrics import Metrics
from backend.services.ports.models import EncodedRows

if TYPE_CHECKING:
    from backend.model_service.shadows import Shadow

logger = logging.getLogger(__name__)

INLINE_BELOW_US: Final = 50.0
"""Rows that are computed in less than a hop to the worker thread costs are computed on the event loop.

Measured with 300 µs of other work on the event loop for each request, on two cores; requests a second:

====================  ============  =============  ==============  ===============
runner                1, inline     1, lane        32, inline      32, lane
====================  ============  =============  ==============  ===============
folded linear, 7 µs   3,022         2,680          3,024           3,016
treelite, 44 µs       2,700         2,147          2,791           2,831
treelite, 1.7 ms      453           426            430             2,113
====================  ============  =============  ==============  ===============

A lone caller gains the hop at any cost of a row; a crowd loses nothing up to about 50 µs, and batches are worth more
from there on. Without the other work a crowd's batches pay from about 10 µs, which no server sees.
"""

_LATELY_S: Final = 60.0
_LOADS: Final = count()
_WITHOUT_PROBABILITIES: Final = OutputOptions(probabilities=False)


class LoadedModel:
    """Serves one version. Stateless but for its lanes: any number of callers share it."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: RowEncoder,
        runner: Runner,
        writer: AnswerWriter,
        lanes: Lanes,
        metrics: Metrics | None = None,
    ) -> None:
        self._manifest = manifest
        self.info: Final = manifest.info()
        """What is told about it."""
        self._encoder = encoder
        self._lanes = lanes
        self._classifies = manifest.task is Task.CLASSIFICATION
        # A version that is loaded anew does not share a batch with what it replaces.
        load = f"{self.info.digest}/{next(_LOADS)}"
        self._full, self._bare = [
            (LaneKey(self.lane_name, load, options), _execute(runner, writer, options))
            for options in (OutputOptions(), _WITHOUT_PROBABILITIES)
        ]
        # An estimator's own code may hang: on the worker a watchdog sees that, on the event loop nobody would. A graph
        # that classifies leaves some rows to it.
        own = manifest.runner
        asks_estimator = own.name == SCIKIT_LEARN or (own.name == ONNX and self._classifies)
        self._inline_row_us = inf if asks_estimator else own.one_row_us
        self._is_retired = False
        self._meter = ModelMeter.of(
            metrics or SilentMetrics(), model=self.info.name, version=self.info.version, runner=self.info.runner
        )
        self._failed_at_s: float | None = None
        self.shadow: Shadow | None = None

    @property
    def lane_name(self) -> str:
        """How its lanes call it: name and version."""
        return f"{self.info.name}@{self.info.version}"

    def encode(self, inputs: Sequence[object]) -> TypedRows:
        """Validate rows (lists in feature order, or objects by feature name).

        Raises:
            SchemaMismatch: with a pointer to each wrong place, up to a bounded number.
        """
        return self._encoder.encode(inputs)

    async def run(
        self,
        rows: EncodedRows,
        indices: Sequence[int],
        options: OutputOptions,
        *,
        share: str,
        deadline_s: float | None = None,
    ) -> list[bytes]:
        """Predict rows; see :class:`backend.services.ports.models.ServedModel`.

        Raises:
            Overloaded: the queue is full or closed, the wait would pass the deadline, or the model is stuck.
            ConcurrencyExceeded: the share has too many rows waiting.
            ModelUnavailable: the model failed on these rows.
        """
        answers = self.run_at_once(rows, indices, options)
        if answers is not None:
            return answers
        typed = self._own(rows)
        started_s = perf_counter()
        wanted = [typed.rows[index] for index in indices]
        key, execute = self._way(options)
        spellings = [typed.canonical(index) for index in indices]
        answers = await self._run_in_lane(key, execute, wanted, spellings, share, deadline_s)
        self._has_run(wanted, key.options, answers, started_s)
        return answers

    def run_at_once(self, rows: EncodedRows, indices: Sequence[int], options: OutputOptions) -> list[bytes] | None:
        """Predict rows on the event loop, where that is quicker than the way to a lane.

        Raises:
            Overloaded, ModelUnavailable: as :meth:`run`.
        """
        if len(indices) * self._inline_row_us >= INLINE_BELOW_US:
            return None
        typed = self._own(rows)
        started_s = perf_counter()
        wanted = [typed.rows[index] for index in indices]
        key, execute = self._way(options)
        answers = self._run_inline(execute, wanted)
        self._has_run(wanted, key.options, answers, started_s)
        return answers

    def count_cached(self, rows: int) -> None:
        """Count rows that the response cache answered in its place."""
        self._meter.cached_rows.add(rows)

    def count_runner(self) -> None:
        """Say which runner serves it; of a version that was replaced by itself, the new one speaks last."""
        self._meter.runner.set(1)

    def retire(self) -> None:
        """Let go of its lanes as soon as they are empty: it was replaced. Who holds it still is answered."""
        self._is_retired = True
        self.shadow = None
        self._meter.runner.set(0)
        self._lanes.retire([key for key, _ in (self._full, self._bare)])

    def failed_lately(self) -> bool:
        """Whether the model failed on somebody's rows within the last minute."""
        return self._failed_at_s is not None and monotonic() - self._failed_at_s < _LATELY_S

    def compute(self, rows: Sequence[Row], options: OutputOptions) -> Sequence[bytes]:
        """Predict on the calling thread, for nobody in particular; what it raises is the caller's to handle."""
        _, execute = self._way(options)
        return execute(rows)

    def warm_up(self) -> None:
        """Predict the manifest's sample rows, so that the first caller does not pay for lazy work.

        Raises:
            ModelRefused: the rows do not fit the inputs, or the model fails on them.
        """
        try:
            for sample in self._manifest.sample_rows:
                # One by one: a request may be allowed fewer rows than there are samples.
                rows = self._encoder.encode([sample]).rows
                for _, execute in (self._full, self._bare):
                    execute(rows)
        except SchemaMismatch as error:
            raise ModelRefused("The manifest's sample rows do not fit its inputs.") from error
        except Exception as error:
            raise ModelRefused(f"The model fails on its own sample rows ({type(error).__name__}).") from error

    def _way(self, options: OutputOptions) -> tuple[LaneKey, Execute]:
        # A regressor has no probabilities, so asking for them must not split its batches.
        return self._full if options.probabilities and self._classifies else self._bare

    def _own(self, rows: EncodedRows) -> TypedRows:
        if not isinstance(rows, TypedRows) or rows.encoder is not self._encoder:
            raise ValueError("the rows were encoded for another model")
        return rows

    def _has_run(self, rows: Sequence[Row], options: OutputOptions, answers: list[bytes], started_s: float) -> None:
        meter = self._meter
        meter.seconds.observe(perf_counter() - started_s)
        meter.rows.add(len(rows))
        if self.shadow is not None:
            self.shadow.offer(rows, options, answers)

    def _count_error(self) -> None:
        self._meter.errors.add()
        self._failed_at_s = monotonic()

    async def _run_in_lane(
        self,
        key: LaneKey,
        execute: Execute,
        rows: Sequence[Row],
        spellings: Sequence[bytes],
        share: str,
        deadline_s: float | None,
    ) -> list[bytes]:
        try:
            return await self._lanes.submit(
                key, execute, rows, spellings, share=share, deadline_s=deadline_s, meter=self._meter
            )
        except (Overloaded, ConcurrencyExceeded):
            self._meter.shed.add()
            raise
        except ModelUnavailable:
            self._count_error()
            raise
        finally:
            if self._is_retired:
                self._lanes.retire([key])

    def _run_inline(self, execute: Execute, rows: Sequence[Row]) -> list[bytes]:
        if not self._lanes.is_open:
            self._meter.shed.add()
            raise Overloaded("The service is not taking predictions at the moment.", retry_after_s=1)
        try:
            return list(execute(rows))
        except Exception as error:  # noqa: BLE001 - foreign code
            self._count_error()
            logger.warning("model %s failed on a row: %s", self.lane_name, type(error).__name__)
            raise ModelUnavailable("The model failed on these rows.") from None


def _execute(runner: Runner, writer: AnswerWriter, options: OutputOptions) -> Execute:
    # Not a method: a lane that still holds it must not keep the version alive.
    def execute(rows: Sequence[Row]) -> Sequence[bytes]:
        return writer.write(runner.predict(rows, options), len(rows))

    return execute


def load_model(
    repository: ModelRepository,
    name: str,
    version: str,
    lanes: Lanes,
    *,
    allow_pickle: bool,
    max_rows: int,
    metrics: Metrics | None = None,
) -> LoadedModel:
    """Load one version from its folder and warm it up. Blocking.

    Raises:
        ModelRefused: with the reason.
    """
    manifest = repository.manifest(name, version)
    check_libraries(manifest)
    model = load_artifact(repository.artifact(manifest), manifest.format, allow_pickle=allow_pickle)
    graph = repository.runner_artifact(manifest)
    loaded = assemble(manifest, model, lanes, max_rows=max_rows, runner_artifact=graph, metrics=metrics)
    loaded.warm_up()
    return loaded


def assemble(
    manifest: Manifest,
    model: Any,
    lanes: Lanes,
    *,
    max_rows: int,
    runner_artifact: bytes | None = None,
    metrics: Metrics | None = None,
) -> LoadedModel:
    """Put a fitted model behind its manifest.

    Raises:
        ModelRefused: the two do not fit.
    """
    classes = class_labels(model) if manifest.task is Task.CLASSIFICATION else ()
    if tuple(label_name(label) for label in classes) != (manifest.labels or ()):
        raise ModelRefused("The model's labels are not the manifest's.")
    try:
        encoder = RowEncoder(manifest.inputs, max_rows=max_rows)
    except ValueError as error:
        raise ModelRefused("A category in the manifest is not of its feature's type.") from error
    runner, choice = rebuild_runner(manifest, model, encoder, runner_artifact)
    return LoadedModel(replace(manifest, runner=choice), encoder, runner, AnswerWriter(classes), lanes, metrics)
