"""Which runner each classifier and regressor of scikit-learn gets, and what the parity gate measured of it."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from backend.model_service import RegistrationError, register
from backend.model_service.manifest import Manifest, RunnerChoice
from backend.model_service.runners import SCIKIT_LEARN
from tests.bench.report import markdown_table
from tests.estimators import fitted, kinds

_SAMPLE_ROWS = 40
_COLUMNS = list("abcd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One estimator's way through registration: its runner, or why there is none."""

    estimator: str
    task: str
    runner: RunnerChoice | None
    refusal: str = ""

    @property
    def reference_us(self) -> float:
        """What scikit-learn took for one row, where that was measured."""
        times = {each.name: each.one_row_us or 0.0 for each in self.runner.candidates} if self.runner else {}
        return times.get(SCIKIT_LEARN, 0.0)

    @property
    def times_as_fast(self) -> float:
        """By how much the chosen runner is faster than scikit-learn."""
        return self.reference_us / self.runner.one_row_us if self.runner else 0.0

    def cells(self) -> tuple[object, ...]:
        """Return its line of the table."""
        if self.runner is None:
            return (self.estimator, self.task, "none", self.refusal)
        chosen = next(each for each in self.runner.candidates if each.name == self.runner.name)
        parity = "the reference" if chosen.max_difference is None else f"{chosen.max_difference:.1e}"
        others = "; ".join(
            f"{each.name}: {each.reason}"
            for each in self.runner.candidates
            if each.name not in (chosen.name, SCIKIT_LEARN)
        )
        speed = f"{self.times_as_fast:.1f}"
        times = (f"{self.reference_us:.0f}", f"{self.runner.one_row_us:.1f}")
        return (self.estimator, self.task, self.runner.name, chosen.reason, parity, *times, speed, others)


def outcomes(workshop: Path) -> Iterator[Outcome]:
    """Fit and register each one below a folder."""
    for name, kind, classifies in kinds():
        yield _outcome(workshop, name, kind, classifies)


def markdown(found: list[Outcome]) -> str:
    """Return the summary and the table."""
    header = (
        "estimator",
        "task",
        "runner",
        "why",
        "largest difference",
        "scikit-learn µs",
        "chosen µs",
        "times",
        "others",
    )
    rows = [(*cells, *[""] * (len(header) - len(cells))) for cells in (each.cells() for each in found)]
    lines = ["# Runners of scikit-learn's estimators", "", *_summary(found), "", *markdown_table(header, rows), ""]
    return "\n".join(lines)


def _summary(found: list[Outcome]) -> list[str]:
    counts = Counter(each.runner.name if each.runner else "none" for each in found)
    rows = []
    for runner, count in counts.most_common():
        times = [each.times_as_fast for each in found if each.runner is not None and each.runner.name == runner]
        rows.append((runner, count, f"{median(times):.1f}" if times else ""))
    return markdown_table(("runner", "estimators", "times as fast for one row, median"), rows)


def _outcome(workshop: Path, name: str, kind: type[Any], classifies: bool) -> Outcome:
    task = "classification" if classifies else "regression"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few rows do not converge is not the subject
        try:
            model, data = fitted(kind, classifies)
        except Exception as error:  # noqa: BLE001 - whatever an estimator raises, it is not fitted
            return Outcome(estimator=name, task=task, runner=None, refusal=f"not fitted: {type(error).__name__}")
        try:
            manifest = _register(workshop / task / name, model, data)
        except RegistrationError as refused:
            return Outcome(estimator=name, task=task, runner=None, refusal=f"refused: {refused}")
    return Outcome(estimator=name, task=task, runner=manifest.runner)


def _register(folder: Path, model: Any, data: Any) -> Manifest:
    folder.mkdir(parents=True)
    sample = folder / "sample.csv"
    pd.DataFrame(data, columns=_COLUMNS).head(_SAMPLE_ROWS).to_csv(sample, index=False)
    return register(folder / "models", model, name="m", sample=sample, allow_pickle=True).manifest
