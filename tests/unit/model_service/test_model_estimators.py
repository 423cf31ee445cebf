"""Every classifier and regressor of scikit-learn that fits small data: each is served as it predicts."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import all_estimators

from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService, RegistrationError, register
from backend.model_service.gate import TOLERANCE

FEW = {"n_estimators": 5, "max_iter": 200, "n_restarts_optimizer": 0, "random_state": 0}
CLASSES = make_classification(80, 4, n_informative=3, n_redundant=0, n_classes=3, random_state=1)
NUMBERS = make_regression(80, 4, noise=1.0, random_state=1)
# What cannot be served says so: several outputs, other kinds of data, or a model that no file can hold.
REFUSED = {
    "CCA",
    "IsotonicRegression",
    "MultiOutputClassifier",
    "MultiOutputRegressor",
    "ClassifierChain",
    "RegressorChain",
    "MultiTaskElasticNet",
    "MultiTaskElasticNetCV",
    "MultiTaskLasso",
    "MultiTaskLassoCV",
    "PLSCanonical",
}
NEEDS_ANOTHER = {
    "FixedThresholdClassifier",
    "OneVsOneClassifier",
    "OneVsRestClassifier",
    "OutputCodeClassifier",
    "SelfTrainingClassifier",
    "TunedThresholdClassifierCV",
}


def made(name: str, kind: type[Any], base: Any) -> Any:
    """An instance that is quick to fit."""
    if name.startswith(("Stacking", "Voting")):
        return kind([("one", base), ("other", base)])
    if name in NEEDS_ANOTHER:
        return kind(base)
    model = kind()
    known = model.get_params(deep=False)
    model.set_params(**{key: value for key, value in FEW.items() if key in known})
    return model.set_params(max_iter=4) if name.startswith(("Hist", "Orthogonal")) and "max_iter" in known else model


def fitted(kind: type[Any], classifies: bool) -> tuple[Any, Any]:
    data, truth = CLASSES if classifies else NUMBERS
    if kind.__name__.endswith(("ThresholdClassifier", "ThresholdClassifierCV")):
        truth = truth > 0
    if kind.__name__ in {"PoissonRegressor", "GammaRegressor", "TweedieRegressor"}:
        truth = np.abs(truth) / 100 + 1
    if kind.__name__ in {"CategoricalNB", "ComplementNB", "MultinomialNB"}:
        data = np.abs(data).round()
    model = made(kind.__name__, kind, LogisticRegression() if classifies else Ridge())
    return model.fit(data, truth), data


def served(root: Path, data: Any) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        service = await ModelService.open(root, allow_pickle=True)
        model = service.resolve(ModelRef.parse("m"))
        rows = model.encode(data.tolist())
        answers = await model.run(rows, range(rows.count), OutputOptions(), share="a")
        await service.aclose()
        return [orjson.loads(answer) for answer in answers]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("kind", "classifies"),
    [
        pytest.param(kind, what == "classifier", id=name)
        for what in ("classifier", "regressor")
        for name, kind in all_estimators(type_filter=what)
        if name not in REFUSED
    ],
)
@pytest.mark.filterwarnings("ignore")  # that so few rows do not converge is not the subject
def test_each_estimator_is_served_as_it_predicts(tmp_path: Path, kind: type[Any], classifies: bool) -> None:
    model, data = fitted(kind, classifies)
    sample = tmp_path / "sample.csv"
    pd.DataFrame(data, columns=list("abcd")).head(40).to_csv(sample, index=False)
    register(tmp_path / "m", model, name="m", sample=sample, allow_pickle=True)
    answers = served(tmp_path / "m", data)
    if not classifies:
        expected = np.asarray(model.predict(data), dtype=np.float64)
        np.testing.assert_allclose([answer["value"] for answer in answers], expected, rtol=TOLERANCE, atol=TOLERANCE)
        return
    assert [answer["label"] for answer in answers] == model.predict(data).tolist()
    if hasattr(model, "predict_proba"):
        probabilities = [list(answer["probabilities"].values()) for answer in answers]
        np.testing.assert_allclose(probabilities, model.predict_proba(data), atol=TOLERANCE)


def test_what_has_several_outputs_is_refused(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    pd.DataFrame(NUMBERS[0], columns=list("abcd")).to_csv(sample, index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Ridge().fit(NUMBERS[0], NUMBERS[0][:, :2])
    with pytest.raises(RegistrationError, match="another shape"):
        register(tmp_path / "m", model, name="m", sample=sample)
