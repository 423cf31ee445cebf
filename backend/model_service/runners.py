"""Runners: whatever turns a batch of rows into columns of answers.

A runner is a runner wherever it runs: scikit-learn here, a folded or compiled copy of the same model, an
engine across the network. All answer with the same columns, so that one piece of code checks them, spells
them as JSON and compares one runner with another.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from backend.domain.models import OutputOptions, Task
from backend.domain.records import record
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import ModelRefused, WrongAnswer
from backend.model_service.manifest import Row

Label: TypeAlias = str | int | bool | float

SCIKIT_LEARN: Final = "scikit-learn"

# Their predict is, by definition, the class of the highest predict_proba: one walk through the trees gives
# both.
_LABEL_IS_HIGHEST_PROBABILITY: Final = (
    RandomForestClassifier,
    ExtraTreesClassifier,
    DecisionTreeClassifier,
    ExtraTreeClassifier,
)
# Their predict is the class of the highest score, and their probabilities rise with the scores: the two can
# only differ where rounding made two probabilities the same.
_LABEL_IS_HIGHEST_SCORE: Final = frozenset(
    {
        LogisticRegression,
        LogisticRegressionCV,
        LinearDiscriminantAnalysis,
        QuadraticDiscriminantAnalysis,
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        GaussianNB,
        MLPClassifier,
    }
)
_CLEARLY_APART: Final = 1e-9


@record(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a model says of n rows.

    A classifier fills ``labels`` (n) and, where asked, ``probabilities`` (n x classes, in the order of its
    classes); a regressor fills ``values`` (n). Whoever works in plain Python gives lists: for one row, an array of
    them costs as much as they did.
    """

    labels: Sequence[Label] | None = None
    probabilities: NDArray[np.float64] | list[list[float]] | None = None
    values: NDArray[np.float64] | list[float] | None = None


class Runner(Protocol):
    """Predicts batches. Called from one thread at a time, except a replacement's after a call got stuck."""

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows, at least one; blocking. What it raises fails the rows that caused it."""
        ...


class SklearnRunner:
    """The reference: the fitted pipeline itself."""

    def __init__(self, model: Any, task: Task, builder: BatchBuilder) -> None:
        self._task = task
        self._builder = builder
        # A classifier may be asked twice, and need not prepare the rows twice.
        self._prepare, self._final = apart(model)
        self._label_is_highest = isinstance(self._final, _LABEL_IS_HIGHEST_PROBABILITY)
        self._label_is_highest_score = type(self._final) in _LABEL_IS_HIGHEST_SCORE
        self._has_probabilities = hasattr(model, "predict_proba")
        self._classes = class_labels(model) if task is Task.CLASSIFICATION else ()

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows with the pipeline."""
        return self.answer(self._prepare(self._builder.build(rows)), len(rows), options)

    def answer(self, data: Any, count: int, options: OutputOptions) -> Columns:
        """Predict ``count`` rows that the steps before the last have prepared."""
        if self._task is Task.REGRESSION:
            return Columns(values=finite(self._final.predict(data), (count,)))
        if not (options.probabilities and self._has_probabilities):
            return Columns(labels=_labels(self._final.predict(data), count))
        probabilities = finite(self._final.predict_proba(data), (count, len(self._classes)))
        if self._label_is_highest or (self._label_is_highest_score and _is_clear(probabilities)):
            labels: Sequence[Label] = [self._classes[place] for place in probabilities.argmax(axis=1).tolist()]
        else:
            labels = _labels(self._final.predict(data), count)
        return Columns(labels=labels, probabilities=probabilities)


def class_labels(model: Any) -> tuple[Label, ...]:
    """Return a classifier's classes as plain values.

    Raises:
        ModelRefused: it has several outputs, or classes that JSON cannot hold.
    """
    classes = getattr(model, "classes_", None)
    if not isinstance(classes, np.ndarray) or classes.ndim != 1:
        raise ModelRefused("The model is a classifier of several outputs, or of none.")
    labels = tuple(classes.tolist())
    if not all(isinstance(label, str | int | float) for label in labels):
        raise ModelRefused("The model's classes are not texts, numbers or booleans.")
    return labels


def label_name(label: Label) -> str:
    """Return a label as the name of its probability: 3 is "3", true is "true"."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def apart(model: Any) -> tuple[Callable[[Any], Any], Any]:
    """Take a pipeline apart into what prepares the rows and what predicts them."""
    if not isinstance(model, Pipeline):
        return lambda data: data, model
    final = model.steps[-1][1]
    return (model[:-1].transform, final) if len(model.steps) > 1 else (lambda data: data, final)


def _is_clear(probabilities: NDArray[np.float64]) -> bool:
    """Whether each row has one highest probability that rounding cannot have made."""
    if probabilities.shape[1] < 2:  # noqa: PLR2004 - of two classes, one is higher
        return True
    highest = np.partition(probabilities, -2, axis=1)
    return bool((highest[:, -1] - highest[:, -2] > _CLEARLY_APART).all())


def _labels(answer: Any, count: int) -> Sequence[Label]:
    array = np.asarray(answer)
    if array.shape != (count,):
        raise WrongAnswer("The model did not give one label per row.")
    labels: list[Label] = array.tolist()
    return labels


def finite(answer: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a model's numbers.

    Raises:
        WrongAnswer: they have another shape, or one is NaN or infinite.
    """
    array = np.asarray(answer, dtype=np.float64)
    if array.shape != shape:
        raise WrongAnswer("The model's answer has another shape than its rows.")
    if not np.isfinite(array).all():
        raise WrongAnswer("The model's answer is not finite.")
    return array
