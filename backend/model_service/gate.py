"""The parity gate: which runner serves a fitted pipeline, decided by measurement.

Every faster runner answers the sample, requests at the rim and, for trees, the rows around every split; scikit-learn
answers the same. One label flipped, or one number further away than the tolerance, and the runner is out, with the
reason. Of those that are left, and scikit-learn itself, the fastest serves.

Converters are silently wrong in known cases: forests trained with gaps, hist-boosting with categories that training
never saw, hist-boosting rows that lie on the edge of a bin. Nothing here knows those cases; the rows find them.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd

from backend.domain.models import Feature, OutputOptions, Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.comparison import OPTIONS, Comparison
from backend.model_service.errors import RunnerUnsuited
from backend.model_service.manifest import Candidate, Row, RunnerArtifact, RunnerChoice, Verdict
from backend.model_service.onnx_conversion import convert
from backend.model_service.onnx_runner import ONNX, ONNX_FILE, OnnxRunner
from backend.model_service.probes import PROBED_TREES, rim_rows, split_rows, tree_rows
from backend.model_service.runner_kinds import REBUILT, MakeRunner
from backend.model_service.runners import SCIKIT_LEARN, Columns, Runner, SklearnRunner, apart
from backend.model_service.timing import measure_one_row_us
from backend.model_service.treelite_runner import TreeliteRunner

_BATCH: Final = 2_048
_BASE_ROWS: Final = 200

FASTER_RUNNERS: Final[dict[str, MakeRunner]] = {**REBUILT, ONNX: convert}
"""What may stand in for scikit-learn where it answers the same."""

T = TypeVar("T")


def choose_runner(
    model: Any,
    task: Task,
    builder: BatchBuilder,
    inputs: Sequence[Feature],
    rows: Sequence[Row],
    *,
    runners: Mapping[str, MakeRunner] = FASTER_RUNNERS,
) -> tuple[RunnerChoice, Runner]:
    """Measure runners on a fitted pipeline and a sample of its rows, and choose the fastest that is the same.

    Returns:
        The choice with its reasons, and the runner chosen.
    """
    reference = SklearnRunner(model, task, builder)
    same: dict[str, Runner] = {SCIKIT_LEARN: reference}
    tried: list[Candidate] = []
    # What pipelines warn of at the rim, such as unknown categories, is what the rim is for.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probes = [*rows, *rim_rows(inputs, rows)]
        for name, make in runners.items():
            try:
                runner = make(model, task, builder)
            except RunnerUnsuited as unsuited:
                tried.append(Candidate(name=name, verdict=Verdict.UNSUITED, reason=str(unsuited)))
                continue
            tried.append(_try(name, runner, model, reference, inputs, rows, probes))
            if tried[-1].verdict is not Verdict.DIFFERENT:
                same[name] = runner
    tried.append(Candidate(name=SCIKIT_LEARN, verdict=Verdict.SLOWER, reason="the reference"))
    times = dict(zip(same, measure_one_row_us(*same.values(), row=rows[0]), strict=True))
    choice = _choice([replace(each, one_row_us=times.get(each.name)) for each in tried])
    chosen = same[choice.name]
    if isinstance(chosen, OnnxRunner):
        graph = RunnerArtifact(name=ONNX_FILE, sha256=sha256(chosen.artifact).hexdigest())
        choice = replace(choice, artifact=graph)
    return choice, chosen


def _try(
    name: str,
    runner: Runner,
    model: Any,
    reference: SklearnRunner,
    inputs: Sequence[Feature],
    rows: Sequence[Row],
    probes: Sequence[Row],
) -> Candidate:
    comparison = Comparison()
    try:
        for options in OPTIONS:
            _compare(comparison, probes, *_over_rows(reference, runner, options))
        if isinstance(runner, TreeliteRunner):
            _compare_splits(comparison, runner, reference, inputs, rows)
        elif type(apart(model)[1]) in PROBED_TREES:
            _compare(comparison, split_rows(model, inputs, rows), *_over_rows(reference, runner, OPTIONS[0]))
    except Exception as error:  # noqa: BLE001 - what scikit-learn answers, a runner may not refuse
        reason = f"it fails where scikit-learn answers ({type(error).__name__})"
        return Candidate(name=name, verdict=Verdict.DIFFERENT, reason=reason)
    difference = min(comparison.max_difference, 1e300)  # JSON has no infinity
    if not comparison.is_same:
        reason = comparison.fault()
        return Candidate(name=name, verdict=Verdict.DIFFERENT, reason=reason, max_difference=difference)
    return Candidate(
        name=name,
        verdict=Verdict.SLOWER,
        reason=f"answers as scikit-learn on {comparison.rows} rows",
        max_difference=difference,
    )


Answer = Callable[[Sequence[T]], Columns]


def _over_rows(reference: Runner, runner: Runner, options: OutputOptions) -> tuple[Answer[Row], Answer[Row]]:
    return lambda rows: reference.predict(rows, options), lambda rows: runner.predict(rows, options)


def _compare_splits(
    comparison: Comparison,
    runner: TreeliteRunner,
    reference: SklearnRunner,
    inputs: Sequence[Feature],
    rows: Sequence[Row],
) -> None:
    """Compare behind the steps that prepare the rows: that is where the thresholds are."""
    final, prepared = runner.ensemble, runner.prepared(rows[:_BASE_ROWS])
    gaps = np.asarray(np.isnan(prepared).any(axis=0))
    if runner.is_bare:
        gaps = gaps | np.array([feature.nullable for feature in inputs])
    names = getattr(final, "feature_names_in_", None)

    def as_fitted(batch: Sequence[Any]) -> Any:
        matrix = np.array(batch)
        return matrix if names is None else pd.DataFrame(matrix, columns=names)

    _compare(
        comparison,
        list(tree_rows(final, prepared, gaps=gaps)),
        lambda batch: reference.answer(as_fitted(batch), len(batch), OPTIONS[0]),
        lambda batch: runner.answer(as_fitted(batch), len(batch), OPTIONS[0]),
    )


def _compare(comparison: Comparison, probes: Sequence[T], reference: Answer[T], runner: Answer[T]) -> None:
    for start in range(0, len(probes), _BATCH):
        for batch, expected in _answered(probes[start : start + _BATCH], reference):
            comparison.add(expected, runner(batch))
            if comparison.flipped:
                return


def _answered(batch: Sequence[T], reference: Answer[T]) -> Iterator[tuple[Sequence[T], Columns]]:
    """Yield the parts of a batch that scikit-learn answers; a row that it refuses, it refuses from anyone."""
    try:
        expected = reference(batch)
    except Exception:  # noqa: BLE001 - whatever a pipeline raises, it has no answer
        if len(batch) > 1:
            middle = len(batch) // 2
            yield from _answered(batch[:middle], reference)
            yield from _answered(batch[middle:], reference)
        return
    yield batch, expected


def _choice(tried: Sequence[Candidate]) -> RunnerChoice:
    measured = [candidate for candidate in tried if candidate.one_row_us is not None]
    best = min(measured, key=lambda candidate: candidate.one_row_us or 0.0)
    candidates = tuple(
        replace(candidate, verdict=Verdict.CHOSEN) if candidate is best else candidate for candidate in tried
    )
    others = "; ".join(f"{each.name} is {each.verdict}: {each.reason}" for each in tried if each is not best)
    if best.name == SCIKIT_LEARN:
        reason = f"The fitted pipeline itself: the reference. {others}."
    else:
        ratio = measured[-1].one_row_us or 0.0
        reason = (
            f"The fastest that {best.reason} (largest difference {best.max_difference:.1e}), "
            f"{ratio / (best.one_row_us or 1.0):.0f} times as fast."
        )
    return RunnerChoice(name=best.name, reason=reason, one_row_us=best.one_row_us or 0.0, candidates=candidates)
