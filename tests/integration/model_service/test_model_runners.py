"""Rows become batches, batches become columns, columns become JSON; what is not an answer is refused."""

from io import StringIO
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from backend.domain.models import Feature, FeatureType, OutputOptions, Task
from backend.model_service.answers import AnswerWriter
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import ModelRefused, WrongAnswer
from backend.model_service.manifest import Container
from backend.model_service.runner_kinds import make_runner
from backend.model_service.runners import Columns, SklearnRunner, class_labels

GENERATOR = np.random.default_rng(2)
X = GENERATOR.normal(size=(60, 3))
BUILDER = BatchBuilder([Feature(name=name, type=FeatureType.FLOAT) for name in "abc"], Container.ARRAY)
ROWS = [tuple(row) for row in X[:10].tolist()]
WITH, WITHOUT = OutputOptions(), OutputOptions(probabilities=False)


def answers(model: Any, options: OutputOptions = WITH) -> list[dict[str, Any]]:
    runner = SklearnRunner(model, Task.CLASSIFICATION, BUILDER)
    written = AnswerWriter(class_labels(model)).write(runner.predict(ROWS, options), len(ROWS))
    return [orjson.loads(answer) for answer in written]


def test_a_matrix_is_float64_and_in_c_order() -> None:
    inputs = [Feature(name="a", type=FeatureType.INTEGER), Feature(name="b", type=FeatureType.BOOLEAN, nullable=True)]
    matrix = BatchBuilder(inputs, Container.ARRAY).build([(3, True), (4, None)])
    assert isinstance(matrix, np.ndarray)
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, [[3.0, 1.0], [4.0, np.nan]])


def test_a_matrix_with_texts_holds_objects() -> None:
    inputs = [Feature(name="a", type=FeatureType.STRING, nullable=True), Feature(name="b", type=FeatureType.FLOAT)]
    matrix = BatchBuilder(inputs, Container.ARRAY).build([("x", 1.0), (None, 2.0)])
    assert isinstance(matrix, np.ndarray)
    assert matrix[0].tolist() == ["x", 1.0]
    assert np.isnan(matrix[1, 0])


def test_a_frame_has_the_dtypes_of_a_csv_file() -> None:
    kinds = {"f": FeatureType.FLOAT, "i": FeatureType.INTEGER, "b": FeatureType.BOOLEAN, "s": FeatureType.STRING}
    strict = [Feature(name=name, type=kind) for name, kind in kinds.items()]
    gaps = [Feature(name=f"{name}?", type=kind, nullable=True) for name, kind in kinds.items()]
    row = (1.5, 2, True, "x")
    frame = BatchBuilder(strict + gaps, Container.FRAME).build([row + row, row + (None,) * 4])
    assert isinstance(frame, pd.DataFrame)
    text = "f,i,b,s,f?,i?,b?,s?\n1.5,2,True,x,1.5,2,True,x\n1.5,2,True,x,,,,\n"
    pd.testing.assert_frame_equal(frame, pd.read_csv(StringIO(text)))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["no", "yes"], {"no", "yes"}),
        ([3, 7], {3, 7}),
        ([False, True], {False, True}),
        ([1.0, 2.0], {1.0, 2.0}),
        (np.array(["no", "yes"], dtype=object), {"no", "yes"}),
    ],
)
def test_labels_keep_their_type_and_name_their_probabilities(labels: Any, expected: set[Any]) -> None:
    model = LogisticRegression().fit(X, np.asarray(labels)[(X[:, 0] > 0).astype(int)])
    found = answers(model)
    assert {answer["label"] for answer in found} == expected
    assert {type(answer["label"]) for answer in found} == {type(label) for label in expected}
    for answer in found:
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
        name = str(answer["label"]).lower() if isinstance(answer["label"], bool) else str(answer["label"])
        assert answer["probabilities"][name] == max(answer["probabilities"].values())


def test_probabilities_are_left_out_where_they_are_not_wanted_or_not_known() -> None:
    labels = np.where(X[:, 0] > 0, "no", "yes")
    assert all(set(answer) == {"label"} for answer in answers(LogisticRegression().fit(X, labels), WITHOUT))
    assert all(set(answer) == {"label"} for answer in answers(LinearSVC().fit(X, labels), WITH))


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(7, random_state=0),
        ExtraTreesClassifier(7, random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(7, random_state=0)),
        HistGradientBoostingClassifier(max_iter=5),
        LogisticRegression(),
        DummyClassifier(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_answers_are_the_estimators_own(model: Any) -> None:
    labels = np.array(["a", "b", "c"])[GENERATOR.integers(0, 3, len(X))]
    model.fit(X, labels)
    data = np.array(ROWS)
    found = answers(model)
    assert [answer["label"] for answer in found] == model.predict(data).tolist()
    assert [list(answer["probabilities"].values()) for answer in found] == model.predict_proba(data).tolist()


def test_a_forest_walks_its_trees_once() -> None:
    class Counting(RandomForestClassifier):  # type: ignore[misc]  # scikit-learn has no types
        calls = 0

        def predict_proba(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
            self.calls += 1
            return super().predict_proba(X)

    model = Counting(3, random_state=0).fit(X, X[:, 0] > 0)
    SklearnRunner(model, Task.CLASSIFICATION, BUILDER).predict(ROWS, WITH)
    assert model.calls == 1


def test_a_linear_classifier_computes_its_scores_once_unless_two_classes_tie() -> None:
    class Counting(LogisticRegression):  # type: ignore[misc]  # scikit-learn has no types
        calls = 0

        def decision_function(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
            self.calls += 1
            return super().decision_function(X)

    def calls(offset: float) -> int:
        model = Counting().fit(X, X[:, 0] > 0)
        model.__class__ = LogisticRegression
        expected = model.predict(np.array(ROWS)).tolist()
        model.coef_ *= offset
        model.intercept_ *= offset
        model.__class__ = Counting
        runner = SklearnRunner(model, Task.CLASSIFICATION, BUILDER)
        runner._label_is_highest_score = True
        columns = runner.predict(ROWS, WITH)
        # A score of 1e-20 is above zero, and both its probabilities are 0.5.
        assert list(columns.labels or ()) == expected
        return int(model.calls)

    assert calls(1.0) == 1
    assert calls(1e-20) == 2


def test_a_regressor_answers_with_a_value() -> None:
    model = LinearRegression().fit(X, X @ [1.0, 2.0, 3.0])
    columns = SklearnRunner(model, Task.REGRESSION, BUILDER).predict(ROWS, WITH)
    values = [orjson.loads(answer)["value"] for answer in AnswerWriter(()).write(columns, len(ROWS))]
    assert values == pytest.approx((np.array(ROWS) @ [1.0, 2.0, 3.0]).tolist())


class Answering(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier that answers what it is told to."""

    def __init__(self, labels: Any, probabilities: Any) -> None:
        self.labels = labels
        self.probabilities = probabilities
        self.classes_ = np.array(["a", "b"])

    def predict(self, rows: NDArray[np.float64]) -> Any:
        return self.labels

    def predict_proba(self, rows: NDArray[np.float64]) -> Any:
        return self.probabilities


@pytest.mark.parametrize(
    ("labels", "probabilities", "reason"),
    [
        (["a"], [[0.5, 0.5]] * 2, "one label per row"),
        ([["a", "b"], ["a", "b"]], [[0.5, 0.5]] * 2, "one label per row"),
        (["a", "b"], [[0.5, 0.5]], "another shape"),
        (["a", "b"], [[0.5, 0.3, 0.2]] * 2, "another shape"),
        (["a", "b"], [[0.5, float("nan")]] * 2, "not finite"),
        (["a", "b"], [[0.5, float("inf")]] * 2, "not finite"),
    ],
)
def test_what_is_not_an_answer_is_refused(labels: Any, probabilities: Any, reason: str) -> None:
    runner = SklearnRunner(Answering(labels, probabilities), Task.CLASSIFICATION, BUILDER)
    with pytest.raises(WrongAnswer, match=reason):
        runner.predict(ROWS[:2], WITH)


def test_a_wrong_number_of_answers_is_refused() -> None:
    with pytest.raises(WrongAnswer, match="one answer per row"):
        AnswerWriter(()).write(Columns(values=np.zeros(2)), 3)


def test_a_classifier_of_several_outputs_is_refused() -> None:
    model = MultiOutputClassifier(LogisticRegression()).fit(X, X[:, :2] > 0)
    with pytest.raises(ModelRefused, match="several outputs"):
        class_labels(model)


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(ModelRefused, match="does not have"):
        make_runner("abacus", LinearRegression(), Task.REGRESSION, BUILDER)
