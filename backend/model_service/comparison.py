"""Whether two runners answer the same: at registration over many rows, at each load over a few."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from backend.domain.models import OutputOptions
from backend.model_service.manifest import Row
from backend.model_service.runners import Columns, Runner

TOLERANCE: Final = 1e-6
"""Largest difference of a probability, or of a number relative to its own size where that is above one."""

OPTIONS: Final = (OutputOptions(), OutputOptions(probabilities=False))
"""Both ways in which a caller may ask."""


@dataclass(slots=True)
class Comparison:
    """How far a runner's answers are from scikit-learn's, over all rows so far."""

    rows: int = 0
    flipped: int = 0
    max_difference: float = 0.0

    @property
    def is_same(self) -> bool:
        """Whether the runner may serve."""
        return not self.flipped and self.max_difference <= TOLERANCE

    def add(self, expected: Columns, answered: Columns) -> None:
        """Compare answers to the same rows."""
        if expected.labels is not None:
            self.rows += len(expected.labels)
            pairs = zip(expected.labels, answered.labels or (), strict=True)
            self.flipped += sum(left != right for left, right in pairs)
        for left, right in ((expected.probabilities, answered.probabilities), (expected.values, answered.values)):
            if left is None and right is None:
                continue
            if left is None or right is None or np.shape(left) != np.shape(right):
                self.max_difference = float("inf")
                continue
            self.rows += len(left) if expected.labels is None else 0
            size = np.maximum(1.0, np.abs(left))
            apart = np.abs(np.subtract(left, right)) / size
            self.max_difference = max(self.max_difference, float(apart.max(initial=0.0)))

    def fault(self) -> str:
        """Say what is wrong."""
        if self.flipped:
            return f"{self.flipped} of {self.rows} labels are not scikit-learn's"
        return f"a number differs from scikit-learn's by {self.max_difference:.1e}"


def same_on(reference: Runner, runner: Runner, rows: Sequence[Row]) -> bool:
    """Whether a runner answers a few rows as the reference does, with and without probabilities."""
    comparison = Comparison()
    for options in OPTIONS:
        for row in rows:
            comparison.add(reference.predict([row], options), runner.predict([row], options))
    return comparison.is_same
