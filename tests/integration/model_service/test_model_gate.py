"""The fastest runner that answers as scikit-learn serves; one that is ever so slightly wrong does not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
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
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler

from backend.domain.models import Feature, FeatureType, OutputOptions, Task
from backend.model_service import register
from backend.model_service.batch import BatchBuilder
from backend.model_service.comparison import TOLERANCE
from backend.model_service.errors import RunnerUnsuited
from backend.model_service.gate import choose_runner
from backend.model_service.manifest import Candidate, Container, Row, RunnerChoice, Verdict
from backend.model_service.onnx_runner import ONNX
from backend.model_service.probes import tree_rows
from backend.model_service.repository import ModelRepository
from backend.model_service.runner_kinds import FOLDED_LINEAR, TREELITE, make_runner
from backend.model_service.runners import SCIKIT_LEARN, Columns, SklearnRunner
from backend.model_service.treelite_runner import TreeliteRunner, compile_trees

GENERATOR = np.random.default_rng(7)
CANCER = load_breast_cancer()
IRIS = load_iris()
SAME = {Verdict.CHOSEN, Verdict.SLOWER}
WITH, WITHOUT = OutputOptions(), OutputOptions(probabilities=False)


def task_of(model: Any) -> Task:
    return Task.CLASSIFICATION if hasattr(model, "classes_") else Task.REGRESSION


def inputs_of(data: NDArray[np.float64]) -> list[Feature]:
    gaps = np.asarray(np.isnan(data).any(axis=0))
    return [Feature(name=f"f{at}", type=FeatureType.FLOAT, nullable=bool(gaps[at])) for at in range(data.shape[1])]


def rows_of(data: NDArray[np.float64]) -> list[Row]:
    return [tuple([None if np.isnan(cell) else cell for cell in row]) for row in data.tolist()]


def choice(model: Any, data: NDArray[np.float64], **options: Any) -> RunnerChoice:
    inputs = inputs_of(data)
    builder = BatchBuilder(inputs, Container.ARRAY)
    chosen, _ = choose_runner(model, task_of(model), builder, inputs, rows_of(data), **options)
    return chosen


def found(chosen: RunnerChoice, name: str) -> Candidate:
    return next(candidate for candidate in chosen.candidates if candidate.name == name)


def differences(model: Any, data: NDArray[np.float64], name: str) -> float:
    """The largest difference between a runner and the estimator; any other label is infinitely far."""
    runner = make_runner(name, model, task_of(model), BatchBuilder(inputs_of(data), Container.ARRAY))
    columns = runner.predict(rows_of(data), WITH)
    if columns.values is not None:
        return float(np.abs(columns.values - model.predict(data)).max())
    assert runner.predict(rows_of(data), WITHOUT).probabilities is None
    if list(columns.labels or ()) != model.predict(data).tolist():
        return float("inf")
    return (
        0.0 if columns.probabilities is None else float(np.abs(columns.probabilities - model.predict_proba(data)).max())
    )


@pytest.mark.parametrize("scaler", [None, StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler()])
@pytest.mark.parametrize("model", [LogisticRegression(max_iter=5_000), RidgeClassifier(), Ridge(), LinearRegression()])
@pytest.mark.parametrize("data", [CANCER, IRIS], ids=["two classes", "three classes"])
def test_a_linear_model_is_folded_with_its_scaler(scaler: Any, model: Any, data: Any) -> None:
    pipeline = make_pipeline(scaler or "passthrough", model).fit(data.data[::3], data.target[::3])
    assert differences(pipeline, data.data, FOLDED_LINEAR) < 1e-9
    assert choice(pipeline, data.data[:40]).name == FOLDED_LINEAR


def test_several_scalers_fold_into_one() -> None:
    model = make_pipeline(StandardScaler(with_mean=False), RobustScaler(), MinMaxScaler(), LogisticRegression())
    assert differences(model.fit(IRIS.data, IRIS.target_names[IRIS.target]), IRIS.data, FOLDED_LINEAR) < 1e-12


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (make_pipeline(MinMaxScaler(clip=True), LinearRegression()), "no scaler that can be folded"),
        (make_pipeline(OneHotEncoder(), LogisticRegression()), "no scaler that can be folded"),
        (RandomForestClassifier(2), "no linear model"),
    ],
)
def test_what_is_not_linear_is_not_folded(model: Any, reason: str) -> None:
    model.fit(IRIS.data, IRIS.target)
    with pytest.raises(RunnerUnsuited, match=reason):
        make_runner(FOLDED_LINEAR, model, task_of(model), BatchBuilder(inputs_of(IRIS.data), Container.ARRAY))


ENSEMBLES = [
    RandomForestClassifier(20, random_state=0),
    ExtraTreesClassifier(20, random_state=0),
    GradientBoostingClassifier(n_estimators=20, random_state=0),
    GradientBoostingClassifier(n_estimators=20, random_state=0, init="zero"),
    HistGradientBoostingClassifier(max_iter=20),
    RandomForestRegressor(20, random_state=0),
    ExtraTreesRegressor(20, random_state=0),
    GradientBoostingRegressor(n_estimators=20, random_state=0),
    HistGradientBoostingRegressor(max_iter=20),
    HistGradientBoostingRegressor(max_iter=20, loss="poisson"),
    HistGradientBoostingRegressor(max_iter=20, loss="quantile", quantile=0.3),
]


@pytest.mark.parametrize("data", [CANCER, IRIS], ids=["two classes", "three classes"])
@pytest.mark.parametrize("model", ENSEMBLES, ids=lambda model: type(model).__name__)
def test_an_ensemble_of_trees_is_walked_by_treelite_to_the_last_digit(model: Any, data: Any) -> None:
    model.fit(data.data, data.target)
    chosen = choice(model, data.data[:60])
    assert found(chosen, TREELITE).verdict in SAME, chosen
    exact = type(model).__name__.startswith(("Random", "Extra"))
    assert (found(chosen, TREELITE).max_difference or 0.0) <= (0.0 if exact else 1e-12)
    assert differences(model, data.data, TREELITE) <= (0.0 if exact else 1e-12)


def test_the_two_classes_of_an_exponential_booster_are_its_own() -> None:
    model = GradientBoostingClassifier(n_estimators=10, loss="exponential").fit(CANCER.data, CANCER.target)
    assert differences(model, CANCER.data, TREELITE) < 1e-12


def test_steps_before_an_ensemble_stay_the_pipelines_own(people: pd.DataFrame) -> None:
    numbers = people[["age", "height"]].to_numpy(dtype=np.float64)
    model = make_pipeline(StandardScaler(), RandomForestRegressor(10, random_state=0)).fit(numbers, people["spends"])
    assert found(choice(model, numbers), TREELITE).verdict in SAME
    assert differences(model, numbers, TREELITE) == 0.0


# -- the cases in which converters are known to be silently wrong ----------------------------------------------------


def holed(data: NDArray[np.float64]) -> NDArray[np.float64]:
    copy = data.copy()
    copy[GENERATOR.random(copy.shape) < 0.2] = np.nan
    return copy


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier, RandomForestRegressor])
def test_a_forest_trained_with_gaps_is_exact_or_stays_with_scikit_learn(kind: Any) -> None:
    data = holed(CANCER.data)
    model = kind(15, random_state=0).fit(data[:300], CANCER.target[:300])
    chosen = choice(model, data[:100])
    unseen = holed(CANCER.data[300:])
    assert chosen.name == SCIKIT_LEARN or differences(model, unseen, TREELITE) == 0.0


def test_hist_boosting_with_categories_stays_with_scikit_learn() -> None:
    data = np.column_stack([GENERATOR.integers(0, 12, 400), GENERATOR.normal(size=400)]).astype(np.float64)
    truth = (data[:, 0] % 3 == 0) ^ (data[:, 1] > 0)
    model = HistGradientBoostingClassifier(categorical_features=[0], max_iter=20).fit(data, truth)
    chosen = choice(model, data[:100])
    assert chosen.name == SCIKIT_LEARN
    assert found(chosen, TREELITE).verdict is Verdict.DIFFERENT
    assert "labels are not scikit-learn's" in found(chosen, TREELITE).reason
    # The sample alone would not have shown it: the rows are those of training, and there the two agree.
    assert differences(model, data, TREELITE) < 1e-12


def with_precision(precision: Any) -> Callable[[Any, Task, BatchBuilder], TreeliteRunner]:
    """The right trees over rows of another precision than scikit-learn gives them."""

    def make(model: Any, task: Task, builder: BatchBuilder) -> TreeliteRunner:
        runner = compile_trees(model, task, builder)
        runner._dtype = precision
        return runner

    return make


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (HistGradientBoostingClassifier(max_iter=20), np.float32),
        (RandomForestClassifier(20, random_state=0), np.float64),
        (GradientBoostingClassifier(n_estimators=20, random_state=0), np.float64),
    ],
    ids=["hist-boosting in float32", "a forest in float64", "boosting in float64"],
)
def test_rows_at_the_edges_find_a_runner_of_the_wrong_precision(model: Any, wrong: Any) -> None:
    model.fit(CANCER.data, CANCER.target)
    sample = CANCER.data[:60].astype(np.float32).astype(np.float64)  # on which precision makes no difference
    chosen = choice(model, sample, runners={"wrong": with_precision(wrong)})
    assert chosen.name == SCIKIT_LEARN
    assert found(chosen, "wrong").verdict is Verdict.DIFFERENT


def test_each_split_has_rows_that_reach_it_and_go_either_way() -> None:
    model = RandomForestClassifier(3, random_state=1).fit(CANCER.data, CANCER.target)
    rows = tree_rows(model, CANCER.data[:10], gaps=np.zeros(30, dtype=np.bool_))
    for member in model.estimators_:
        visited = np.asarray(member.decision_path(rows).sum(axis=0)).ravel()
        assert (visited > 0).all()  # every node, so both sides of every split
    assert len(rows) == 6 * sum((each.tree_.children_left >= 0).sum() for each in model.estimators_)


# -- the verdict -----------------------------------------------------------------------------------------------------


class Shifted(SklearnRunner):
    """scikit-learn's own answers, with probabilities moved by a little."""

    by = 0.0

    def predict(self, rows: Any, options: OutputOptions) -> Columns:
        columns = super().predict(rows, options)
        if columns.probabilities is None:
            return columns
        return Columns(labels=columns.labels, probabilities=np.asarray(columns.probabilities) + self.by)


class Failing(SklearnRunner):
    def predict(self, rows: Any, options: OutputOptions) -> Columns:
        raise ValueError("secret")


class Flipping(SklearnRunner):
    """One label of many rows is another."""

    def predict(self, rows: Any, options: OutputOptions) -> Columns:
        columns = super().predict(rows, options)
        labels = list(columns.labels or ())
        return Columns(labels=[*labels[:-1], 1 - int(labels[-1])], probabilities=columns.probabilities)


def shifted(by: float) -> type[SklearnRunner]:
    return type("Shifted", (Shifted,), {"by": by})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (shifted(3 * TOLERANCE), "differs from scikit-learn's by 3.0e-06"),
        (Flipping, "labels are not scikit-learn's"),
        (Failing, r"fails where scikit-learn answers \(ValueError\)"),
    ],
)
def test_what_differs_is_out_with_the_reason(kind: Any, reason: str) -> None:
    model = LogisticRegression(max_iter=5_000).fit(CANCER.data, CANCER.target)
    chosen = choice(model, CANCER.data[:50], runners={"other": kind})
    assert chosen.name == SCIKIT_LEARN
    assert found(chosen, "other").verdict is Verdict.DIFFERENT
    assert re.search(reason, found(chosen, "other").reason)
    assert found(chosen, "other").reason in chosen.reason
    assert found(chosen, "other").one_row_us is None


def test_a_difference_within_the_tolerance_is_none() -> None:
    model = LogisticRegression(max_iter=5_000).fit(CANCER.data, CANCER.target)
    chosen = choice(model, CANCER.data[:50], runners={"other": shifted(TOLERANCE / 3)})
    assert found(chosen, "other").verdict in SAME
    assert found(chosen, "other").max_difference == pytest.approx(TOLERANCE / 3, rel=1e-6)


def test_a_text_that_training_never_saw_is_among_the_rows(tmp_path: Path, people: pd.DataFrame) -> None:
    columns = ColumnTransformer(
        [("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])], remainder="passthrough"
    )
    pipeline = Pipeline([("columns", columns), ("model", RandomForestRegressor(10, random_state=0))])
    pipeline.fit(people.drop(columns="spends"), people["spends"])
    sample = tmp_path / "people.csv"
    people.to_csv(sample, index=False)
    manifest = register(tmp_path / "m", pipeline, name="spending", sample=sample, target="spends").manifest
    # Most of a row's time goes into its columns here: which of the two is faster is not the subject.
    assert found(manifest.runner, TREELITE).verdict in SAME
    assert found(manifest.runner, TREELITE).max_difference == 0.0


def test_the_choice_says_what_was_measured(registered_root: Path) -> None:
    runner = ModelRepository(registered_root).manifest("iris", "2").runner
    assert runner.name in {TREELITE, ONNX}
    found = {each.name: each.verdict for each in runner.candidates}
    assert found.pop(runner.name) is Verdict.CHOSEN
    assert found.pop(FOLDED_LINEAR) is Verdict.UNSUITED
    assert set(found.values()) == {Verdict.SLOWER}
    measured = {each.name: each.one_row_us for each in runner.candidates if each.one_row_us is not None}
    assert runner.one_row_us == min(measured.values()) < measured[SCIKIT_LEARN]
    assert "answers as scikit-learn on" in runner.reason
