"""The schema of a model's inputs accepts what its encoder accepts, and its examples are among them."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from backend.domain.errors import SchemaMismatch
from backend.domain.models import Feature, FeatureType, ModelInfo, Task
from backend.model_service import input_schema, prediction_schema
from backend.model_service.encoding import RowEncoder
from backend.model_service.repository import ModelRepository

INPUTS = (
    Feature(name="size", type=FeatureType.FLOAT, example=80.5),
    Feature(name="rooms", type=FeatureType.INTEGER, nullable=True, example=3),
    Feature(name="new", type=FeatureType.BOOLEAN, example=False),
    Feature(name="heating", type=FeatureType.STRING, nullable=True, categories=("gas", "wood"), example="gas"),
    Feature(name="grade", type=FeatureType.INTEGER, categories=("1", "2"), example=1),
)


@pytest.fixture
def info(registered_root: Path) -> ModelInfo:
    return ModelRepository(registered_root).manifest("iris", "1").info()


def of(info: ModelInfo, **changes: Any) -> ModelInfo:
    fields = {name: getattr(info, name) for name in ModelInfo.__dataclass_fields__}
    return ModelInfo(**(fields | changes))


def test_the_examples_fit_the_schema_and_the_encoder(info: ModelInfo) -> None:
    mixed = of(info, inputs=INPUTS)
    schema = input_schema(mixed)
    assert len(schema["examples"]) == 2
    for example in schema["examples"]:
        jsonschema_rs.validate(schema, example)
        assert RowEncoder(INPUTS).encode(example["inputs"]).count == 1


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([1, 2, True, "gas", 1], True),
        ([1.5, None, True, None, 2], True),
        ([1.5, 3.0, True, "wood", 2], True),
        ({"size": 1, "rooms": 1, "new": True, "heating": "gas", "grade": 1}, True),
        ([1.5, 3.5, True, "gas", 2], False),
        ([True, 3, True, "gas", 2], False),
        (["1.5", 3, True, "gas", 2], False),
        ([None, 3, True, "gas", 2], False),
        ([1.5, 3, 1, "gas", 2], False),
        ([1.5, 3, True, "coal", 2], False),
        ([1.5, 3, True, "gas", 3], False),
        ([1.5, 3, True, "gas"], False),
        ([1.5, 3, True, "gas", 2, 2], False),
        ({"size": 1, "rooms": 1, "new": True, "heating": "gas"}, False),
        ({"size": 1, "rooms": 1, "new": True, "heating": "gas", "grade": 1, "x": 1}, False),
        (3, False),
    ],
)
def test_the_schema_and_the_encoder_agree(info: ModelInfo, row: Any, fits: bool) -> None:
    schema = input_schema(of(info, inputs=INPUTS))
    assert jsonschema_rs.is_valid(schema, {"inputs": [row]}) is fits
    if fits:
        RowEncoder(INPUTS).encode([row])
    else:
        with pytest.raises(SchemaMismatch):
            RowEncoder(INPUTS).encode([row])


def test_the_number_of_rows_is_bounded(info: ModelInfo) -> None:
    schema = input_schema(info, max_rows=2)
    row = [5.1, 3.5, 1.4, 0.2]
    assert [jsonschema_rs.is_valid(schema, {"inputs": [row] * count}) for count in range(4)] == [
        False,
        True,
        True,
        False,
    ]


def test_a_classifiers_answer_fits_its_schema(info: ModelInfo) -> None:
    schema = prediction_schema(info)
    probabilities = {"setosa": 0.9, "versicolor": 0.1, "virginica": 0.0}
    assert jsonschema_rs.is_valid(schema, {"label": "setosa", "probabilities": probabilities})
    assert jsonschema_rs.is_valid(schema, {"label": "setosa"})
    assert not jsonschema_rs.is_valid(schema, {"label": "setosa", "probabilities": {"setosa": 1.0}})
    assert not jsonschema_rs.is_valid(schema, {"value": 1.0})


def test_a_regressors_answer_fits_its_schema(info: ModelInfo) -> None:
    schema = prediction_schema(of(info, task=Task.REGRESSION, labels=None))
    assert jsonschema_rs.is_valid(schema, {"value": 12.5})
    assert not jsonschema_rs.is_valid(schema, {"label": "setosa"})
