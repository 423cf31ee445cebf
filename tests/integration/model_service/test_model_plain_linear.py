"""A small linear model is worked out row by row: alike in every batch, and at the ends of what a float holds."""

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from backend.domain.models import Feature, FeatureType, OutputOptions, Task
from backend.model_service.answers import AnswerWriter
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import WrongAnswer
from backend.model_service.folded import FoldedLinearRunner, fold
from backend.model_service.manifest import Container, Row
from backend.model_service.plain_linear import PlainLinearRunner
from backend.model_service.runners import Runner, class_labels

IRIS = load_iris()
WITH = OutputOptions()


def folded(model: Any, features: int, task: Task = Task.CLASSIFICATION) -> Runner:
    inputs = [Feature(name=f"f{at}", type=FeatureType.FLOAT) for at in range(features)]
    return fold(model, task, BatchBuilder(inputs, Container.ARRAY))


def rows_of(data: Any) -> list[Row]:
    return [tuple(row) for row in data.tolist()]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_row_is_answered_with_the_same_bytes_in_every_batch(classes: int) -> None:
    chosen = IRIS.target < classes
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS.data[chosen], IRIS.target[chosen])
    runner, writer, rows = folded(model, 4), AnswerWriter(class_labels(model)), rows_of(IRIS.data)
    assert type(runner) is PlainLinearRunner
    together = writer.write(runner.predict(rows, WITH), len(rows))
    assert [writer.write(runner.predict([row], WITH), 1)[0] for row in rows] == together


def test_a_larger_model_is_one_matrix_product() -> None:
    data = np.random.default_rng(1).normal(size=(40, 17))
    model = Ridge().fit(data, data @ np.arange(17.0))
    assert type(folded(model, 17, Task.REGRESSION)) is FoldedLinearRunner


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [1e-300, 1.0, 1e4, 1e150])
def test_scores_of_any_size_have_scikit_learns_probabilities(classes: int, size: float) -> None:
    chosen = IRIS.target < classes
    model = LogisticRegression(max_iter=1_000).fit(IRIS.data[chosen], IRIS.target[chosen])
    data = np.vstack([IRIS.data, -IRIS.data]) * size
    answered = folded(model, 4).predict(rows_of(data), WITH)
    assert answered.probabilities is not None
    assert np.abs(answered.probabilities - model.predict_proba(data)).max() < 1e-12
    assert list(answered.labels or ()) == model.predict(data).tolist()


@pytest.mark.parametrize("row", [(1e308, 1e308, 1e308, 1e308), (1e308, -1e308, 1e308, -1e308)])
def test_a_score_that_is_not_finite_is_no_answer(row: Row) -> None:
    runner = PlainLinearRunner([(0.0, (10.0, 10.0, 10.0, 10.0))], (), has_probabilities=False)
    with pytest.raises(WrongAnswer, match="not finite"):
        runner.predict([row], WITH)


def test_scores_that_are_finite_each_may_have_no_finite_sum() -> None:
    runner = PlainLinearRunner([(0.0, (1.0,)), (0.0, (1.5,)), (0.0, (0.5,))], "abc", has_probabilities=True)
    assert list(runner.predict([(1e308,)], WITH).labels or ()) == ["b"]
