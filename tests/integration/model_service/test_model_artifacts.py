"""Artifacts: what is trusted is read back the same, anything else is refused before it can run or crash."""

import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, TweedieRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from backend.model_service.artifacts import dump_artifact, load_artifact, untrusted_types
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import ArtifactFormat

GENERATOR = np.random.default_rng(4)
X = GENERATOR.normal(size=(80, 4)).round(2)
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
SKOPS, JOBLIB = ArtifactFormat.SKOPS, ArtifactFormat.JOBLIB


def through_skops(model: Any) -> Any:
    return load_artifact(dump_artifact(model, SKOPS), SKOPS, allow_pickle=False)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(3),
        ExtraTreesRegressor(3),
        GradientBoostingClassifier(n_estimators=3),
        GradientBoostingClassifier(n_estimators=3, init=LogisticRegression()),
        HistGradientBoostingClassifier(max_iter=3),
        HistGradientBoostingRegressor(max_iter=3, early_stopping=True),
        HistGradientBoostingClassifier(max_iter=3, categorical_features=[0]),
        DecisionTreeClassifier(max_leaf_nodes=5, ccp_alpha=0.001),
        AdaBoostClassifier(n_estimators=3),
        BaggingClassifier(n_estimators=3, max_features=2),
        VotingClassifier([("a", LogisticRegression()), ("b", RandomForestClassifier(2))], voting="soft"),
        StackingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())]),
        CalibratedClassifierCV(GaussianNB()),
        CalibratedClassifierCV(GaussianNB(), method="isotonic"),
        KNeighborsClassifier(algorithm="brute"),
        MLPClassifier((4,), max_iter=5),
        GaussianProcessClassifier(),
        SVC(),
        TweedieRegressor(power=1.5),
        TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
        make_pipeline(SelectKBest(f_classif, k=2), StandardScaler(), LogisticRegression()),
        make_pipeline(FunctionTransformer(np.abs), SimpleImputer(), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("one", OneHotEncoder(handle_unknown="ignore"), [0])], remainder="passthrough"),
            LogisticRegression(),
        ),
        make_pipeline(
            ColumnTransformer([("scaled", StandardScaler(), make_column_selector())]), DecisionTreeClassifier()
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_common_estimators_need_no_pickle(model: Any) -> None:
    categorical = getattr(model, "categorical_features", None) is not None
    data: Any = np.abs(X.round()) if categorical else X
    if "make_column_selector" in repr(model):
        data = pd.DataFrame(X, columns=list("abcd"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few iterations to converge
        model.fit(data, Y)
    loaded = through_skops(model)
    np.testing.assert_array_equal(loaded.predict(data), model.predict(data))
    if hasattr(model, "predict_proba"):
        np.testing.assert_array_equal(loaded.predict_proba(data), model.predict_proba(data))


def test_a_loaded_model_starts_no_threads_of_its_own() -> None:
    forest = RandomForestClassifier(3, n_jobs=-1).fit(X, Y)
    loaded = through_skops(make_pipeline(StandardScaler(), forest).fit(X, Y))
    assert loaded.steps[-1][1].n_jobs == 1


class Leaves:
    """A pickle that leaves a mark where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickle_is_refused_by_default_and_nothing_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data = pickle.dumps(Leaves(mark))
    with pytest.raises(ModelRefused, match="pickle is not allowed"):
        load_artifact(data, JOBLIB, allow_pickle=False)
    with pytest.raises(ModelRefused, match="not a skops file"):
        load_artifact(data, SKOPS, allow_pickle=False)
    assert not mark.exists()


def test_joblib_is_read_where_it_is_allowed() -> None:
    model = LogisticRegression().fit(X, Y)
    loaded = load_artifact(dump_artifact(model, JOBLIB), JOBLIB, allow_pickle=True)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_a_joblib_file_that_is_cut_short_is_refused() -> None:
    data = dump_artifact(LogisticRegression().fit(X, Y), JOBLIB)
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_artifact(data[: len(data) // 2], JOBLIB, allow_pickle=True)


def shout(values: Any) -> Any:
    return values


def test_a_function_of_the_authors_own_is_not_trusted() -> None:
    data = dump_artifact(make_pipeline(FunctionTransformer(shout), LogisticRegression()).fit(X, Y), SKOPS)
    assert [name.rpartition(".")[2] for name in untrusted_types(data)] == ["shout"]
    with pytest.raises(ModelRefused, match=r"types that are not trusted: .*shout"):
        load_artifact(data, SKOPS, allow_pickle=True)


def test_neighbours_in_a_tree_are_not_trusted() -> None:
    data = dump_artifact(KNeighborsClassifier(algorithm="kd_tree").fit(X, Y), SKOPS)
    with pytest.raises(ModelRefused, match="KDTree"):
        load_artifact(data, SKOPS, allow_pickle=False)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-50], lambda data: data[50:], lambda data: b"", lambda data: b"PK"]
)
def test_a_damaged_skops_file_is_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ModelRefused):
        load_artifact(damage(dump_artifact(LogisticRegression().fit(X, Y), SKOPS)), SKOPS, allow_pickle=False)


def edited(data: bytes, edit: Callable[[np.ndarray[Any, Any]], None], field: str) -> bytes:
    """Change the first array in a skops file that has a field of that name."""
    changed = io.BytesIO()
    done = False
    with ZipFile(io.BytesIO(data)) as source, ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".npy") and not done:
                array = np.load(io.BytesIO(content))
                if array.dtype.names and field in array.dtype.names and array.size > 1:
                    edit(array)
                    buffer = io.BytesIO()
                    np.save(buffer, array)
                    content, done = buffer.getvalue(), True
            target.writestr(name, content)
    assert done
    return changed.getvalue()


def put(field: str, value: int) -> Callable[[np.ndarray[Any, Any]], None]:
    def edit(nodes: np.ndarray[Any, Any]) -> None:
        nodes[field][0] = value

    return edit


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(2, random_state=0),
        GradientBoostingClassifier(n_estimators=2),
        DecisionTreeClassifier(),
        make_pipeline(StandardScaler(), BaggingClassifier(DecisionTreeClassifier(), n_estimators=2)),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_child", 10**6),
        ("right_child", -7),
        ("left_child", 0),
        ("feature", 4),
        ("feature", -2),
        ("feature", 10**9),
    ],
)
def test_a_tree_that_points_outside_is_refused_before_it_is_walked(model: Any, field: str, value: int) -> None:
    data = edited(dump_artifact(model.fit(X, Y), SKOPS), put(field, value), field)
    with pytest.raises(ModelRefused, match="damaged tree"):
        load_artifact(data, SKOPS, allow_pickle=False)


@pytest.fixture(scope="module")
def booster() -> bytes:
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2)
    return dump_artifact(model.fit(X, Y), SKOPS)


@pytest.mark.parametrize(
    ("field", "value"),
    [("left", 10**6), ("right", 0), ("feature_idx", 4), ("feature_idx", -1), ("is_categorical", 1)],
)
def test_a_booster_that_points_outside_is_refused_before_it_is_walked(booster: bytes, field: str, value: int) -> None:
    data = edited(booster, put(field, value), field)
    with pytest.raises(ModelRefused, match="damaged tree"):
        load_artifact(data, SKOPS, allow_pickle=False)


def test_a_booster_whose_categories_point_outside_is_refused() -> None:
    categories = np.abs(X.round())
    model = HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=2, categorical_features=[0, 1, 2, 3])
    model.fit(categories, Y)
    data = edited(dump_artifact(model, SKOPS), put("bitset_idx", 10**6), "bitset_idx")
    with pytest.raises(ModelRefused, match="categories"):
        load_artifact(data, SKOPS, allow_pickle=False)


def resized(data: bytes, class_name: str, count: int) -> bytes:
    """Write another ``n_features_in_`` into the first estimator of a class."""
    changed = io.BytesIO()

    def visit(state: Any) -> bool:
        if isinstance(state, dict):
            content = state.get("content")
            if state.get("__class__") == class_name and isinstance(content, dict):
                content["content"]["n_features_in_"]["content"] = json.dumps(count)
                return True
            return any(visit(value) for value in state.values())
        return isinstance(state, list) and any(visit(value) for value in state)

    with ZipFile(io.BytesIO(data)) as source, ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                assert visit(schema)
                content = json.dumps(schema).encode()
            target.writestr(name, content)
    return changed.getvalue()


def test_a_forest_narrower_than_its_trees_is_refused() -> None:
    data = dump_artifact(RandomForestClassifier(2).fit(X, Y), SKOPS)
    with pytest.raises(ModelRefused, match="damaged"):
        load_artifact(resized(data, "RandomForestClassifier", 2), SKOPS, allow_pickle=False)


def test_an_isolation_forest_is_refused() -> None:
    with pytest.raises(ModelRefused, match="isolation forest"):
        through_skops(IsolationForest(n_estimators=2).fit(X))


def test_a_tree_planted_outside_of_an_estimator_is_refused() -> None:
    tree = DecisionTreeClassifier().fit(X, Y).tree_
    model = LogisticRegression().fit(X, Y)
    model.planted = [tree]
    with pytest.raises(ModelRefused, match="outside of an estimator"):
        through_skops(model)


def test_joblib_bytes_can_be_read_by_joblib_itself() -> None:
    data = dump_artifact(LogisticRegression().fit(X, Y), JOBLIB)
    assert isinstance(joblib.load(io.BytesIO(data)), LogisticRegression)
