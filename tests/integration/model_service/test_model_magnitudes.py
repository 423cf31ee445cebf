"""Numbers on which a model would overflow are refused before it, with their place; all others are taken."""

import asyncio
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from backend.domain.errors import SchemaMismatch
from backend.domain.models import Feature, FeatureType, ModelRef, OutputOptions
from backend.model_service import ModelService, input_schema, register
from backend.model_service.encoding import RowEncoder
from backend.model_service.manifest import Manifest

IRIS = load_iris()
SINGLE = float(np.finfo(np.float32).max)
DOUBLE = float(np.finfo(np.float64).max)
WriteCsv = Callable[[pd.DataFrame], Path]


def registered(root: Path, model: Any, frame: pd.DataFrame, write_csv: WriteCsv) -> Manifest:
    return register(root, model, name="m", sample=write_csv(frame)).manifest


def on_iris(root: Path, model: Any, write_csv: WriteCsv) -> Manifest:
    frame = pd.DataFrame(IRIS.data, columns=list("abcd"))
    return registered(root, model.fit(IRIS.data, IRIS.target), frame, write_csv)


def limits(manifest: Manifest) -> list[float | None]:
    return [feature.limit for feature in manifest.inputs]


def answered(root: Path, inputs: list[Any]) -> list[Any]:
    async def ask() -> list[Any]:
        service = await ModelService.open(root)
        try:
            model = service.resolve(ModelRef.parse("m"))
            rows = model.encode(inputs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = await model.run(rows, range(rows.count), OutputOptions(), share="a")
            return [json.loads(answer) for answer in answers]
        finally:
            await service.aclose()

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", [RandomForestClassifier, GradientBoostingClassifier])
def test_what_keeps_its_rows_in_single_precision_takes_what_fits(
    tmp_path: Path, write_csv: WriteCsv, kind: Any
) -> None:
    manifest = on_iris(tmp_path / "m", kind(n_estimators=3), write_csv)
    assert limits(manifest) == [SINGLE] * 4
    encoder = RowEncoder(manifest.inputs)
    for value in (1e39, -1e39, DOUBLE, -DOUBLE, float(np.nextafter(SINGLE, np.inf)), 10**39, -(10**39), 10**400):
        with pytest.raises(SchemaMismatch) as caught:
            encoder.encode([[1, 2, 3, 4], [1.0, 2.0, 3.0, value]])
        assert [(each.pointer, each.detail) for each in caught.value.errors] == [("/inputs/1/3", "Is too large.")]
        with pytest.raises(SchemaMismatch) as caught:
            encoder.encode([{"a": 1, "b": value, "c": 1, "d": 1}])
        assert [each.pointer for each in caught.value.errors] == ["/inputs/0/b"]
    assert len(answered(tmp_path / "m", [[SINGLE] * 4, [-SINGLE] * 4, [SINGLE, -SINGLE, 5e-324, -0.0]])) == 3


def test_hist_boosting_takes_any_finite_number(tmp_path: Path, write_csv: WriteCsv) -> None:
    manifest = on_iris(tmp_path / "m", HistGradientBoostingClassifier(max_iter=3), write_csv)
    assert limits(manifest) == [None] * 4
    assert len(answered(tmp_path / "m", [[DOUBLE] * 4, [-DOUBLE, DOUBLE, 5e-324, -0.0]])) == 2


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), RandomForestClassifier(3)),
        make_pipeline(StandardScaler(), PolynomialFeatures(9), LogisticRegression(max_iter=50)),
        LogisticRegression(max_iter=1_000),
    ],
    ids=["a scaler before a forest", "ninth powers", "linear"],
)
@pytest.mark.filterwarnings("ignore")  # ninth powers do not converge
def test_everything_up_to_the_limits_is_answered_alone_and_together(
    tmp_path: Path, write_csv: WriteCsv, model: Any
) -> None:
    found = limits(on_iris(tmp_path / "m", model, write_csv))
    assert all(limit is not None and 1e3 < limit <= SINGLE for limit in found)
    largest = [limit or 0.0 for limit in found]
    rows = [
        largest,
        [-limit for limit in largest],
        *([limit if at == place else 1.0 for at, limit in enumerate(largest)] for place in range(4)),
    ]
    assert len(answered(tmp_path / "m", rows)) == len(rows)


def test_a_limit_that_one_feature_needs_is_not_the_others(tmp_path: Path, write_csv: WriteCsv) -> None:
    """The exponential of a Poisson model ends at some hundreds of its sum: what weighs much may be less large."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"income": generator.uniform(1e4, 1e6, 300), "ratio": generator.uniform(0, 1, 300)})
    model = PoissonRegressor(alpha=0, max_iter=5_000).fit(
        frame / [1e6, 1], np.exp(frame["income"] / 1e6 + 2 * frame["ratio"])
    )
    model.coef_ = model.coef_ / np.array([1e6, 1.0])
    income, ratio = limits(registered(tmp_path / "m", model, frame, write_csv))
    assert income is not None
    assert ratio is not None
    assert income > 1e7
    assert 16 <= ratio < 1e3
    assert len(answered(tmp_path / "m", [[income, ratio]])) == 1


def test_no_limit_is_near_what_the_sample_holds(tmp_path: Path, write_csv: WriteCsv) -> None:
    frame = pd.DataFrame({"a": [1.0, 5_000.0, 3.0, 4.0], "b": [0.0, 1.0, 2.0, 3.0]})
    model = PoissonRegressor().fit(frame, [1, 2, 3, 4])
    model.coef_ = np.array([0.1, 0.0])  # overflows at 7,090
    a, _ = limits(registered(tmp_path / "m", model, frame, write_csv))
    assert a == 16 * 5_000


def test_integers_texts_and_booleans_beside_large_numbers(
    tmp_path: Path, people: pd.DataFrame, write_csv: WriteCsv
) -> None:
    columns = ColumnTransformer(
        [("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])], remainder=StandardScaler()
    )
    pipeline = make_pipeline(columns, RandomForestClassifier(3)).fit(
        people.drop(columns="spends"), people["spends"] > 150
    )
    manifest = registered(tmp_path / "m", pipeline, people.drop(columns="spends"), write_csv)
    by_name = {feature.name: feature.limit for feature in manifest.inputs}
    assert by_name["colour"] is None
    assert by_name["member"] is None
    good = {"colour": "red", "age": 30, "height": 1.8, "member": True}
    encoder = RowEncoder(manifest.inputs)
    for name, value, detail in [
        ("age", 10**30, "Is too large."),
        ("age", 1e30, "Is too large."),
        ("age", -(2**63) - 1, "Is too large."),
        ("height", 1e39, "Is too large."),
        ("age", True, "Must be an integer."),
        ("age", "30", "Must be an integer."),
        ("height", "1.8", "Must be a number."),
        ("height", False, "Must be a number."),
        ("height", None, "Must not be null."),
        ("member", 1, "Must be true or false."),
        ("member", None, "Must not be null."),
    ]:
        with pytest.raises(SchemaMismatch) as caught:
            encoder.encode([good | {name: value}])
        assert [(each.pointer, each.detail) for each in caught.value.errors] == [(f"/inputs/0/{name}", detail)]
    unusual = [{"colour": text} for text in ("", "röd", "赤", "🟥", "a\u0000b", "e\u0301", "\u202ered")]
    numbers: list[dict[str, Any]] = [{"age": 2**63 - 1}, {"age": -(2**63)}, {"height": -0.0}, {"height": 5e-324}]
    assert len(answered(tmp_path / "m", [good | each for each in unusual + numbers])) == 11


def test_the_schema_states_the_limit() -> None:
    size = Feature(name="size", type=FeatureType.FLOAT, limit=100.0, nullable=True)
    encoder = RowEncoder([size])
    assert encoder.encode([[100], [-100.0], [None]]).count == 3
    for value in (100.1, -101):
        with pytest.raises(SchemaMismatch):
            encoder.encode([[value]])


def test_a_manifests_limit_reaches_the_openapi_document(tmp_path: Path, write_csv: WriteCsv) -> None:
    info = on_iris(tmp_path / "m", RandomForestClassifier(2), write_csv).info()
    [named, positional] = input_schema(info)["properties"]["inputs"]["items"]["anyOf"]
    for cell in (named["properties"]["a"], positional["prefixItems"][0]):
        assert (cell["minimum"], cell["maximum"]) == (-SINGLE, SINGLE)
