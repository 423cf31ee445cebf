"""Scalers and a linear model folded into one matrix product.

A scaler is ``x * factor + shift`` and a linear model ``x @ weights + offsets``; one after the other is again of the
second form. scikit-learn spends its 200 µs a row on validation and dispatch around the same few multiplications.

Folding moves the last digits of a score, so the parity gate decides; the label is taken from the score with
scikit-learn's own rule (``> 0`` of two classes, the highest of several), never from rounded probabilities.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    HuberRegressor,
    Lars,
    LarsCV,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    OrthogonalMatchingPursuit,
    OrthogonalMatchingPursuitCV,
    Perceptron,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDRegressor,
    TheilSenRegressor,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from backend.domain.models import OutputOptions, Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import RunnerUnsuited, WrongAnswer
from backend.model_service.manifest import Row
from backend.model_service.plain_linear import PlainLinearRunner
from backend.model_service.runners import Columns, Label, Runner, class_labels

_Exact: TypeAlias = NDArray[np.longdouble]

# Exact types: a subclass may predict in another way.
_REGRESSORS: Final = frozenset(
    {
        ARDRegression,
        BayesianRidge,
        ElasticNet,
        ElasticNetCV,
        HuberRegressor,
        Lars,
        LarsCV,
        Lasso,
        LassoCV,
        LassoLars,
        LassoLarsCV,
        LassoLarsIC,
        LinearRegression,
        LinearSVR,
        OrthogonalMatchingPursuit,
        OrthogonalMatchingPursuitCV,
        QuantileRegressor,
        Ridge,
        RidgeCV,
        SGDRegressor,
        TheilSenRegressor,
    }
)
_WITH_PROBABILITIES: Final = frozenset({LinearDiscriminantAnalysis, LogisticRegression, LogisticRegressionCV})
_LABELS_ONLY: Final = frozenset({LinearSVC, Perceptron, RidgeClassifier, RidgeClassifierCV})

_PLAIN_UP_TO: Final = 16
"""Weights for which plain Python is faster: by half for one row of a request, if slower by a microsecond for each of
hundreds, of which everything else costs several."""


class FoldedLinearRunner:
    """``rows @ weights + offsets``; ``weights`` is features x scores, with one score for a number or two classes."""

    def __init__(
        self,
        weights: NDArray[np.float64],
        offsets: NDArray[np.float64],
        classes: Sequence[Label],
        builder: BatchBuilder,
        *,
        has_probabilities: bool,
    ) -> None:
        self._weights = weights
        self._offsets = offsets
        self._classes = classes
        self._builder = builder
        self._has_probabilities = has_probabilities

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows."""
        scores = self._builder.matrix(rows) @ self._weights
        scores += self._offsets
        if not np.logical_and.reduce(np.isfinite(scores), axis=None):
            raise WrongAnswer("The model's answer is not finite.")
        if not self._classes:
            return Columns(values=scores[:, 0])
        two = scores.shape[1] == 1
        places = scores[:, 0] > 0 if two else scores.argmax(axis=1)
        labels = [self._classes[place] for place in places.tolist()]
        if not (options.probabilities and self._has_probabilities):
            return Columns(labels=labels)
        return Columns(labels=labels, probabilities=of_second_class(expit(scores[:, 0])) if two else softmax(scores))


def fold(model: Any, task: Task, builder: BatchBuilder) -> Runner:
    """Fold a fitted pipeline of scalers and a linear model.

    Raises:
        RunnerUnsuited: it is something else.
    """
    *scalers, final = [step for _, step in model.steps] if type(model) is Pipeline else [model]
    known = _REGRESSORS if task is Task.REGRESSION else _WITH_PROBABILITIES | _LABELS_ONLY
    if type(final) not in known:
        raise RunnerUnsuited("its last step is no linear model that can be folded")
    if not builder.is_numeric:
        raise RunnerUnsuited("it reads texts")
    affine = [_affine(scaler) for scaler in scalers]
    classes = class_labels(model) if task is Task.CLASSIFICATION else ()
    weights, offsets = _coefficients(final, len(classes) if len(classes) > 2 else 1)  # noqa: PLR2004 - two share one
    for factor, shift in reversed(affine):
        offsets = offsets + (weights * shift).sum(axis=0)
        weights = weights * factor
    matrix, shifts = np.ascontiguousarray(weights, dtype=np.float64), offsets.astype(np.float64)
    has_probabilities = type(final) in _WITH_PROBABILITIES
    if matrix.size <= _PLAIN_UP_TO:
        scores = list(zip(shifts.tolist(), map(tuple, matrix.T.tolist()), strict=True))
        return PlainLinearRunner(scores, classes, has_probabilities=has_probabilities)
    return FoldedLinearRunner(matrix, shifts, classes, builder, has_probabilities=has_probabilities)


def _coefficients(final: Any, scores: int) -> tuple[_Exact, _Exact]:
    """Return a fitted linear model's weights, features x scores, and its offsets."""
    coefficients = final.coef_
    if not isinstance(coefficients, np.ndarray) or coefficients.size != scores * final.n_features_in_:
        raise RunnerUnsuited("its coefficients are not one array, of one output")
    return (
        coefficients.reshape(scores, -1).T.astype(np.longdouble),
        np.broadcast_to(np.asarray(final.intercept_, dtype=np.longdouble), (scores,)),
    )


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's probabilities, computed as scikit-learn does; the scores are overwritten."""
    # The methods of an array do the same, a microsecond later each.
    scores -= np.maximum.reduce(scores, axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=1, keepdims=True)
    return scores


def of_second_class(second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of both classes from those of the second."""
    both = np.empty((len(second), 2))
    np.subtract(1.0, second, out=both[:, 0])
    both[:, 1] = second
    return both


def _affine(scaler: Any) -> tuple[_Exact, _Exact]:
    """Return a fitted scaler's factor and shift, each a column."""
    one = np.ones((1, 1), dtype=np.longdouble)
    factor, shift = one, 0 * one
    if scaler is None or scaler == "passthrough":
        return factor, shift
    if type(scaler) in {StandardScaler, RobustScaler}:
        # Either may be told to leave out the one or the other, which is None then.
        centre = scaler.mean_ if type(scaler) is StandardScaler else scaler.center_
        centred = scaler.with_mean if type(scaler) is StandardScaler else scaler.with_centering
        factor = one if scaler.scale_ is None else one / _column(scaler.scale_)
        return factor, -_column(centre) * factor if centred else shift
    if type(scaler) is MaxAbsScaler and not getattr(scaler, "clip", False):
        return one / _column(scaler.scale_), shift
    if type(scaler) is MinMaxScaler and not scaler.clip:
        return _column(scaler.scale_), _column(scaler.min_)
    raise RunnerUnsuited("a step before the linear model is no scaler that can be folded")


def _column(numbers: Any) -> _Exact:
    return np.asarray(numbers, dtype=np.longdouble)[:, None]
