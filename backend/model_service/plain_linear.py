"""A small folded linear model in plain Python: for a few numbers numpy's calls cost more than the arithmetic.

One row of four numbers and three classes takes half as long so. Every row is worked out by itself, in one order, so
its answer has the same bytes whichever batch it came in.
"""

from collections.abc import Sequence
from math import exp, isfinite
from operator import mul
from typing import Any, TypeAlias

from backend.domain.models import OutputOptions
from backend.model_service.errors import WrongAnswer
from backend.model_service.manifest import Row
from backend.model_service.runners import Columns, Label

Score: TypeAlias = tuple[float, tuple[float, ...]]
"""An offset, and the weight of each feature."""


class PlainLinearRunner:
    """One of ``scores`` for each class, or a single one for a number or two classes. Takes rows of numbers only."""

    def __init__(self, scores: Sequence[Score], classes: Sequence[Label], *, has_probabilities: bool) -> None:
        self._scores = tuple(scores)
        self._classes = classes
        self._has_probabilities = has_probabilities

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows."""
        scored = [self._score(row) for row in rows]
        if not self._classes:
            return Columns(values=[score for [score] in scored])
        if len(self._scores) == 1:
            labels = [self._classes[score > 0] for [score] in scored]
        else:
            labels = [self._classes[scores.index(max(scores))] for scores in scored]
        if not (options.probabilities and self._has_probabilities):
            return Columns(labels=labels)
        spread = _of_two if len(self._scores) == 1 else _softmax
        return Columns(labels=labels, probabilities=[spread(scores) for scores in scored])

    def _score(self, row: Sequence[Any]) -> list[float]:
        scores = [offset + sum(map(mul, row, weights)) for offset, weights in self._scores]
        # What is infinite or NaN stays so in a sum; one that is only too large as a sum is looked at again.
        if not isfinite(sum(scores)) and not all(map(isfinite, scores)):
            raise WrongAnswer("The model's answer is not finite.")
        return scores


def _of_two(scores: Sequence[float]) -> list[float]:
    """Return the probabilities of both classes: the logistic function, of whichever sign does not overflow."""
    [score] = scores
    if score >= 0:
        second = 1.0 / (1.0 + exp(-score))
    else:
        grown = exp(score)
        second = grown / (1.0 + grown)
    return [1.0 - second, second]


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    grown = [exp(score - highest) for score in scores]
    total = sum(grown)
    return [each / total for each in grown]
