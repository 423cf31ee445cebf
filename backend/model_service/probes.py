"""Rows on which a faster runner is most likely to be wrong, made from a sample of usual ones.

* Requests at the rim: gaps where they are allowed, texts and numbers that training never saw.
* For trees: for every split a row that reaches it and lies on its threshold, or one representable number beside it, as
  ``float64`` and as ``float32``. Most conversion errors live there, and no sample of usual rows finds them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
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
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from backend.domain.models import Feature, FeatureType
from backend.model_service.manifest import Row, Scalar
from backend.model_service.values import category

Floats: TypeAlias = NDArray[np.float64]
Splits: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Floats, NDArray[np.bool_]]

PROBED_TREES: Final = frozenset(
    {
        DecisionTreeClassifier,
        DecisionTreeRegressor,
        ExtraTreeClassifier,
        ExtraTreeRegressor,
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        GradientBoostingClassifier,
        GradientBoostingRegressor,
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    }
)
"""The estimators around whose splits :func:`tree_rows` makes rows. Exact types: a subclass may hold others."""

MAX_SPLITS: Final = 10_000
"""Of a larger ensemble every n-th split is probed."""

_MAX_ROWS: Final = 20_000
_ROWS_PER_VALUE: Final = 3
_BASE_ROWS: Final = 200
_UNSEEN_TEXT: Final = "\N{REPLACEMENT CHARACTER} never seen in training"
_NUMBERS: Final = (-1.0, 0.0, 0.5, 1.0, 3.5, 255.0, 256.0, 300.0, 1e6, -1e6)
_MOST_CATEGORIES: Final = 256


def rim_rows(inputs: Sequence[Feature], rows: Sequence[Row]) -> list[Row]:
    """Return rows with unusual values, one feature at a time, all of which a caller may send."""
    made = [
        (*base[:place], value, *base[place + 1 :])
        for place, feature in enumerate(inputs)
        for value in _unusual(feature, [row[place] for row in rows])
        for base in rows[:_ROWS_PER_VALUE]
    ]
    nulls = tuple(feature.nullable for feature in inputs)
    if any(nulls):
        made += [
            tuple([None if null else cell for null, cell in zip(nulls, row, strict=True)])
            for row in rows[:_ROWS_PER_VALUE]
        ]
    return made[:: 1 + len(made) // _MAX_ROWS]


def _unusual(feature: Feature, seen: Sequence[Scalar]) -> list[Scalar]:
    values: list[Scalar] = []
    if feature.categories is not None:
        values += [category(text, feature.type) for text in feature.categories]
    elif feature.type is FeatureType.STRING:
        values += ["", _UNSEEN_TEXT, *dict.fromkeys(seen)]
    elif feature.type is FeatureType.BOOLEAN:
        values += [True, False]
    else:
        highest = max((float(value) for value in seen if isinstance(value, int | float)), default=0.0)
        numbers = (*_NUMBERS, highest + 1, 2 * highest + 1)
        values += [int(number) for number in numbers] if feature.type is FeatureType.INTEGER else list(numbers)
    return [*values, None] if feature.nullable else values


def tree_rows(ensemble: Any, base: Floats, *, gaps: NDArray[np.bool_]) -> Floats:
    """Return rows around each split of a fitted ensemble; around categories, where it has them.

    Args:
        ensemble: forest, gradient boosting or hist-boosting, fitted.
        base: usual rows as the ensemble is given them.
        gaps: which of its columns may hold NaN.
    """
    trees = list(_hist_trees(ensemble) if hasattr(ensemble, "_predictors") else _trees(ensemble))
    step = 1 + sum(int((tree[0] >= 0).sum()) for tree in trees) // MAX_SPLITS
    places = (lambda number: number) if hasattr(ensemble, "_predictors") else np.float32
    rows: list[Floats] = []
    for number, tree in enumerate(trees):
        left, right, _, _, numeric = tree
        parents = np.full(len(left), -1)
        inner = np.flatnonzero(left >= 0)
        parents[left[inner]] = parents[right[inner]] = inner
        for node in inner[number % step :: step]:
            if numeric[node]:
                row = _reaching(tree, parents, int(node), base[len(rows) % len(base)], places)
                rows.extend(_beside(row, tree, int(node), nan=bool(gaps[tree[2][node]])))
    rows.extend(_category_rows(ensemble, base))
    return np.array(rows).reshape(-1, base.shape[1])


def split_rows(model: Any, inputs: Sequence[Feature], rows: Sequence[Row]) -> list[Row]:
    """Return rows around each split as a caller would send them: through the scalers before the trees, backwards."""
    scalers, final = (model[:-1], model[-1]) if isinstance(model, Pipeline) and len(model) > 1 else (None, model)
    base = np.array(rows[:_BASE_ROWS], dtype=np.float64)
    gaps = np.array([feature.nullable for feature in inputs])
    if scalers is None:
        made = tree_rows(final, base, gaps=gaps)
    else:
        made = scalers.inverse_transform(tree_rows(final, np.asarray(scalers.transform(base)), gaps=gaps))
    columns = [_as_sent(feature, column) for feature, column in zip(inputs, made.T, strict=True)]
    return list(zip(*columns, strict=True))


def _as_sent(feature: Feature, column: Floats) -> list[Scalar]:
    if feature.type is FeatureType.BOOLEAN:
        return [bool(cell > 0.5) for cell in column.tolist()]  # noqa: PLR2004 - the nearer one
    if feature.type is FeatureType.INTEGER:
        column = column.round()
    sent = [None if cell != cell else cell for cell in column.tolist()]  # noqa: PLR0124 - NaN
    return [None if cell is None else int(cell) for cell in sent] if feature.type is FeatureType.INTEGER else sent


def _trees(ensemble: Any) -> Iterator[Splits]:
    members = [ensemble] if hasattr(ensemble, "tree_") else ensemble.estimators_
    for member in np.asarray(members, dtype=object).flat:
        tree = member.tree_
        yield (
            tree.children_left,
            tree.children_right,
            tree.feature,
            tree.threshold,
            np.ones(tree.node_count, dtype=np.bool_),
        )


def _hist_trees(ensemble: Any) -> Iterator[Splits]:
    order = _column_order(ensemble)
    for stage in ensemble._predictors:  # noqa: SLF001 - its trees are nowhere else
        for predictor in stage:
            nodes = predictor.nodes
            inner = nodes["is_leaf"] == 0
            left = np.where(inner, nodes["left"].astype(np.intp), -1)
            right = np.where(inner, nodes["right"].astype(np.intp), -1)
            features = order[np.where(inner, nodes["feature_idx"], 0)]
            yield left, right, features, nodes["num_threshold"].astype(np.float64), nodes["is_categorical"] == 0


def _column_order(ensemble: Any) -> NDArray[np.intp]:
    """Hist-boosting moves categorical columns to the front before it grows its trees."""
    categorical = ensemble.is_categorical_
    if categorical is None:
        return np.arange(ensemble.n_features_in_)
    return np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])


def _category_rows(ensemble: Any, base: Floats) -> Iterator[Floats]:
    categorical = getattr(ensemble, "is_categorical_", None)
    if categorical is None:
        return
    values = np.concatenate([np.arange(-1, _MOST_CATEGORIES + 2), [0.5, 3.5, 1e6]])
    for feature in np.flatnonzero(categorical):
        for number, value in enumerate(values):
            row = base[number % len(base)].copy()
            row[feature] = value
            yield row


def _reaching(tree: Splits, parents: Any, node: int, base: Floats, places: Any) -> Floats:
    """Return the base row, moved as little as it takes to reach a node."""
    left, _, features, thresholds, numeric = tree
    row = base.copy()
    while (parent := int(parents[node])) >= 0:
        feature, threshold = features[parent], thresholds[parent]
        if numeric[parent]:
            nearest = places(threshold)
            if left[parent] == node:
                below = nearest if nearest <= threshold else np.nextafter(nearest, places(-np.inf))
                row[feature] = np.fmin(row[feature], below)
            else:
                above = nearest if nearest > threshold else np.nextafter(nearest, places(np.inf))
                row[feature] = np.fmax(row[feature], above)
        node = parent
    return row


def _beside(row: Floats, tree: Splits, node: int, *, nan: bool) -> Iterator[Floats]:
    feature, threshold = tree[2][node], tree[3][node]
    single = np.float32(threshold)
    values = [
        threshold,
        np.nextafter(threshold, -np.inf),
        np.nextafter(threshold, np.inf),
        single,
        np.nextafter(single, np.float32(-np.inf)),
        np.nextafter(single, np.float32(np.inf)),
    ]
    for value in [*values, np.nan] if nan else values:
        made = row.copy()
        made[feature] = value
        yield made
