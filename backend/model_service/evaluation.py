"""What a candidate is worth: the same answers as the pipeline, and a held-out metric."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, mean_absolute_error, r2_score

from backend.domain.models import Task
from backend.model_service.errors import RegistrationError
from backend.model_service.runners import Columns, Label, label_name

PARITY_TOLERANCE: Final = 1e-9
"""Threads add a forest's votes in any order, which moves the last digits; nothing else may."""


def check_parity(pipeline: Any, data: Any, answered: Columns) -> None:
    """Compare a runner's answers with the pipeline's own on the same rows.

    Raises:
        RegistrationError: a label differs, or a number by more than :data:`PARITY_TOLERANCE`.
    """
    expected = np.asarray(pipeline.predict(data))
    if answered.values is not None:
        same = _close(expected, answered.values)
    else:
        same = expected.tolist() == list(answered.labels or ())
    if same and answered.probabilities is not None:
        same = _close(pipeline.predict_proba(data), answered.probabilities)
    if not same:
        raise RegistrationError(
            "What would be served does not predict the same as the pipeline on the sample, so it is not registered. "
            "The sample's columns may have other types than the data that the pipeline was fitted on."
        )


def held_out_metrics(task: Task, truth: Sequence[str], answered: Columns, classes: Sequence[Label]) -> dict[str, float]:
    """Compare answers with the sample's target column.

    Raises:
        RegistrationError: the column holds what the model cannot answer.
    """
    metrics = _regression(truth, answered) if task is Task.REGRESSION else _classification(truth, answered, classes)
    return metrics | {"held_out_rows": float(len(truth))}


def _close(expected: Any, answered: Any) -> bool:
    expected = np.asarray(expected, dtype=np.float64)
    return expected.shape == np.shape(answered) and np.allclose(
        expected, answered, rtol=PARITY_TOLERANCE, atol=PARITY_TOLERANCE
    )


def _classification(truth: Sequence[str], answered: Columns, classes: Sequence[Label]) -> dict[str, float]:
    places = _class_places(truth, classes)
    names = [label_name(label) for label in classes]
    hits = [label_name(label) == names[place] for label, place in zip(answered.labels or (), places, strict=True)]
    metrics = {"accuracy": sum(hits) / len(hits)}
    if answered.probabilities is not None and len(classes) > 1:
        metrics["log_loss"] = float(log_loss(places, answered.probabilities, labels=range(len(classes))))
    return metrics


def _regression(truth: Sequence[str], answered: Columns) -> dict[str, float]:
    numbers = pd.to_numeric(pd.Series(list(truth)), errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise RegistrationError("The target column of the sample holds values that are not numbers.")
    metrics = {"mae": float(mean_absolute_error(numbers, answered.values))}
    # Of a single row there is no variance to explain.
    return {"r2": float(r2_score(numbers, answered.values))} | metrics if len(numbers) > 1 else metrics


def _class_places(truth: Sequence[str], classes: Sequence[Label]) -> list[int]:
    """Find each text's class: by its name, or as a number where the classes are numbers (1 and 1.0 are one)."""
    by_name = {label_name(label): place for place, label in enumerate(classes)}
    by_number = {float(label): place for place, label in enumerate(classes) if not isinstance(label, str)}
    places = []
    for text in truth:
        place = by_name.get(text, by_name.get(text.lower()) if isinstance(classes[0], bool) else None)
        if place is None and by_number:
            place = by_number.get(float(pd.to_numeric(text, errors="coerce")))
        if place is None:
            raise RegistrationError("The target column of the sample holds a label that the model does not know.")
        places.append(place)
    return places
