"""Tree ensembles walked by treelite's GTIL instead of scikit-learn: the same trees, without 5 ms of dispatch.

What makes it exact: forests and gradient boosting compare ``float32`` rows, as scikit-learn casts them, and
hist-boosting ``float64`` ones; a booster's trees are only summed here, and labels and probabilities follow from the sum
by scikit-learn's own rule. What treelite converts wrongly is for the parity gate to find: see
:mod:`backend.model_service.gate`.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import treelite
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from backend.domain.models import OutputOptions, Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import RunnerUnsuited
from backend.model_service.folded import of_second_class, softmax
from backend.model_service.manifest import Row
from backend.model_service.runners import Columns, apart, class_labels, finite

_treelite: Any = treelite  # it ships no types

_FORESTS: Final = frozenset({ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor})
_BOOSTERS: Final = frozenset({GradientBoostingClassifier, GradientBoostingRegressor})
_HIST_BOOSTERS: Final = frozenset({HistGradientBoostingClassifier, HistGradientBoostingRegressor})
_LOG_LINK: Final = frozenset({"poisson", "gamma"})


class TreeliteRunner:
    """A fitted ensemble, with whatever steps stand before it still done by scikit-learn."""

    def __init__(self, model: Any, trees: Any, task: Task, builder: BatchBuilder) -> None:
        self._prepare, self.ensemble = apart(model)
        final = self.ensemble
        self.is_bare = final is model
        self._trees = trees
        self._builder = builder
        self._classes = class_labels(model) if task is Task.CLASSIFICATION else ()
        self._width = final.n_features_in_
        self._is_forest = type(final) in _FORESTS
        self._dtype: Any = np.float64 if type(final) in _HIST_BOOSTERS else np.float32
        self._zero_is_second = type(final) is GradientBoostingClassifier
        self._doubles_score = getattr(final, "loss", None) == "exponential"
        self._exponentiates = not self._classes and getattr(final, "loss", None) in _LOG_LINK

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows."""
        return self.answer(self._prepare(self._builder.build(rows)), len(rows), options)

    def answer(self, data: Any, count: int, options: OutputOptions) -> Columns:
        """Predict ``count`` rows that the steps before the ensemble have prepared."""
        sums = self._walk(data)[:, 0, :]
        if not self._classes:
            return Columns(values=finite(np.exp(sums[:, 0]) if self._exponentiates else sums[:, 0], (count,)))
        if self._is_forest or sums.shape[1] > 1:
            places = sums.argmax(axis=1)
        else:
            places = sums[:, 0] >= 0 if self._zero_is_second else sums[:, 0] > 0
        labels = [self._classes[place] for place in places.tolist()]
        if not options.probabilities:
            return Columns(labels=labels)
        return Columns(labels=labels, probabilities=finite(self._probabilities(sums), (count, len(self._classes))))

    def prepared(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return rows as the ensemble is given them, as an array."""
        data = self._prepare(self._builder.build(rows))
        return np.asarray(data.toarray() if hasattr(data, "toarray") else data, dtype=np.float64)

    def _probabilities(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._is_forest:
            return sums
        if sums.shape[1] > 1:
            return softmax(sums)
        return of_second_class(expit(2 * sums[:, 0] if self._doubles_score else sums[:, 0]))

    def _walk(self, data: Any) -> NDArray[np.float64]:
        dense = data.toarray() if hasattr(data, "toarray") else data
        with np.errstate(over="ignore"):
            matrix = np.asarray(dense, dtype=self._dtype, order="C")
        # treelite would fill up a narrow matrix with NaN, and scikit-learn refuses what is too large for float32.
        if matrix.shape[1:] != (self._width,) or (self._dtype is np.float32 and np.isinf(matrix).any()):
            raise ValueError("the rows do not fit the trees")
        walked: NDArray[np.float64] = _treelite.gtil.predict(
            self._trees, matrix, nthread=1, pred_margin=not self._is_forest
        )
        return walked


def compile_trees(model: Any, task: Task, builder: BatchBuilder) -> TreeliteRunner:
    """Convert the tree ensemble at the end of a fitted pipeline.

    Raises:
        RunnerUnsuited: there is none, or treelite does not convert it.
    """
    _, final = apart(model)
    # Exact types: a subclass may predict in another way.
    if type(final) not in _FORESTS | _BOOSTERS | _HIST_BOOSTERS:
        raise RunnerUnsuited("its last step is no ensemble of trees that treelite converts")
    try:
        trees = _treelite.sklearn.import_model(final)
    except Exception as error:
        # It asserts what it expects of scikit-learn's internals, and so raises anything.
        raise RunnerUnsuited(f"treelite does not convert it ({type(error).__name__})") from error
    return TreeliteRunner(model, trees, task, builder)
