"""Every classifier and regressor of scikit-learn that fits small data: each is served as it predicts."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService, RegistrationError, register
from backend.model_service.comparison import TOLERANCE
from tests.estimators import NUMBERS, fitted, kinds

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
    [pytest.param(kind, classifies, id=name) for name, kind, classifies in kinds() if name not in REFUSED],
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
