"""Columns of answers as one JSON object per row, ready to be sent and cached."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from backend.model_service.errors import WrongAnswer
from backend.model_service.runners import Columns, Label, label_name


class AnswerWriter:
    """Writes the answers of one model; ``classes`` are a classifier's, in the order of its probabilities."""

    def __init__(self, classes: Sequence[Label]) -> None:
        self._names = tuple(label_name(label) for label in classes)

    def write(self, columns: Columns, count: int) -> list[bytes]:
        """Return one JSON object per row.

        Raises:
            WrongAnswer: there are not ``count`` answers.
        """
        labels = columns.labels or ()
        if columns.values is not None:
            answers = [orjson.dumps({"value": value}) for value in _listed(columns.values)]
        elif columns.probabilities is None:
            answers = [orjson.dumps({"label": label}) for label in labels]
        else:
            answers = [
                # A runner's probabilities are as wide as its classes; being strict here costs more than the writing.
                orjson.dumps({"label": label, "probabilities": dict(zip(self._names, row))})  # noqa: B905
                for label, row in zip(labels, _listed(columns.probabilities), strict=True)
            ]
        if len(answers) != count:
            raise WrongAnswer("The runner did not give one answer per row.")
        return answers


def _listed(numbers: NDArray[np.float64] | list[Any]) -> list[Any]:
    return numbers if isinstance(numbers, list) else numbers.tolist()
