"""Every node number of every tree, checked before compiled code follows it.

scikit-learn's trees and hist-boosting predictors walk arrays of node and feature numbers without looking at
bounds. A crafted file with a wrong number passes skops' check of types and then crashes the process, or reads
foreign memory, at the first prediction (skops says so in ``skops.io.exceptions``; the discussion is
scikit-learn's pull request 34558). scikit-learn numbers children after their parent in every builder, so
"greater than the parent and below the count" also rules out a cycle, which would never return.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import BaseDecisionTree
from sklearn.tree._tree import Tree

from backend.model_service.errors import ModelRefused
from backend.model_service.fitted import reachable

_LEAF: Final = -1
_BITSET_WORDS: Final = 8


def check_trees(model: object) -> None:
    """Check all trees that can be reached from a fitted model.

    Raises:
        ModelRefused: a tree points outside itself, or stands where its bounds are not known.
    """
    found = list(reachable(model))
    owned: set[int] = set()
    for thing in found:
        # Ensembles keep unfitted templates of their members, which can predict nothing.
        if isinstance(thing, BaseDecisionTree) and hasattr(thing, "tree_"):
            _check_decision_tree(thing)
            owned.add(id(thing.tree_))
        elif isinstance(thing, BaseForest | BaseGradientBoosting) and hasattr(thing, "estimators_"):
            _check_members(thing)
        elif isinstance(thing, BaseHistGradientBoosting) and hasattr(thing, "_predictors"):
            owned.update(_check_hist_boosting(thing))
        elif isinstance(thing, IsolationForest):
            raise ModelRefused("The artifact holds an isolation forest, which is not served.")
    if any(isinstance(thing, Tree | TreePredictor) and id(thing) not in owned for thing in found):
        raise ModelRefused("The artifact holds a tree outside of an estimator.")


def _check_decision_tree(estimator: Any) -> None:
    tree = estimator.tree_
    if not isinstance(tree, Tree) or not 0 < tree.node_count <= tree.capacity:
        raise ModelRefused("The artifact holds a damaged tree: its size.")
    if tree.n_features != getattr(estimator, "n_features_in_", None):
        raise ModelRefused("The artifact holds a damaged tree: its width.")
    left, right = tree.children_left, tree.children_right
    inner = np.flatnonzero(left != _LEAF)
    _check_nodes(inner, left[inner], right[inner], tree.node_count)
    _check_features(tree.feature[inner], tree.n_features)


def _check_members(ensemble: Any) -> None:
    """Members are called without a second look at their input's width: theirs must be the ensemble's."""
    members = np.asarray(ensemble.estimators_, dtype=object)
    width = getattr(ensemble, "n_features_in_", None)
    if not members.size or any(getattr(member, "n_features_in_", None) != width for member in members.flat):
        raise ModelRefused("The artifact holds a damaged ensemble: its members' width.")
    if not all(isinstance(member, BaseDecisionTree) and hasattr(member, "tree_") for member in members.flat):
        raise ModelRefused("The artifact holds a damaged ensemble: its members.")
    columns = getattr(ensemble, "n_trees_per_iteration_", None)
    if isinstance(ensemble, BaseGradientBoosting) and members.shape[1:] != (columns,):
        raise ModelRefused("The artifact holds a damaged ensemble: its number of outputs.")


def _check_hist_boosting(estimator: Any) -> Iterator[int]:
    state = vars(estimator)
    width = state.get("_n_features")
    categorical = np.asarray(state["_bin_mapper"].is_categorical_, dtype=bool)
    if not isinstance(width, int) or categorical.shape != (width,):
        raise ModelRefused("The artifact holds a damaged booster: its width.")
    for stage in state["_predictors"]:
        for predictor in stage:
            if not isinstance(predictor, TreePredictor):
                raise ModelRefused("The artifact holds a damaged booster: its trees.")
            _check_predictor(predictor, categorical)
            yield id(predictor)


def _check_predictor(predictor: Any, categorical: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    nodes = predictor.nodes
    if nodes.ndim != 1 or not nodes.size:
        raise ModelRefused("The artifact holds a damaged tree: its size.")
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    _check_nodes(inner, nodes["left"][inner], nodes["right"][inner], nodes.size)
    _check_features(nodes["feature_idx"][inner], categorical.size)
    splits = inner[nodes["is_categorical"][inner] != 0]
    if splits.size:
        bitsets = predictor.raw_left_cat_bitsets
        known = bitsets.shape[1:] == (_BITSET_WORDS,)
        if not known or not categorical[nodes["feature_idx"][splits]].all():
            raise ModelRefused("The artifact holds a damaged tree: its categories.")
        if nodes["bitset_idx"][splits].max() >= bitsets.shape[0]:
            raise ModelRefused("The artifact holds a damaged tree: its categories.")


def _check_nodes(parents: Any, left: Any, right: Any, count: int) -> None:
    for children in (left.astype(np.int64), right.astype(np.int64)):
        if not ((children > parents) & (children < count)).all():
            raise ModelRefused("The artifact holds a damaged tree: a child outside of it.")


def _check_features(features: Any, width: int) -> None:
    if not ((features >= 0) & (features < width)).all():
        raise ModelRefused("The artifact holds a damaged tree: a feature outside of its input.")
