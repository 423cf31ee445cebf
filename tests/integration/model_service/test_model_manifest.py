"""A manifest is read back as it was written, or refused with the field that is wrong."""

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from backend.domain.models import Feature, FeatureType, Task
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import ArtifactFormat, Candidate, Container, Manifest, Output, RunnerChoice, Verdict
from backend.model_service.manifest_reading import MAX_MANIFEST_BYTES, parse_manifest

MANIFEST = Manifest(
    name="prices",
    version="7",
    format=ArtifactFormat.SKOPS,
    artifact="model.skops",
    sha256="0" * 64,
    task=Task.CLASSIFICATION,
    container=Container.FRAME,
    inputs=(
        Feature(name="size", type=FeatureType.FLOAT, example=4.5),
        Feature(name="town/ü", type=FeatureType.STRING, nullable=True, categories=("a", "b"), example="a"),
    ),
    outputs=(Output.LABEL, Output.PROBABILITIES),
    labels=("cheap", "dear"),
    runner=RunnerChoice(
        name="scikit-learn",
        reason="the reference",
        one_row_us=210.5,
        candidates=(
            Candidate(name="treelite", verdict=Verdict.UNSUITED, reason="no trees"),
            Candidate(name="scikit-learn", verdict=Verdict.CHOSEN, reason="", one_row_us=210.5, max_difference=0.0),
        ),
    ),
    metrics={"accuracy": 0.5},
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    library_versions={"scikit-learn": "1.9.1"},
    sample_rows=((4.5, "a"), (1.0, None)),
)


def changed(**changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(MANIFEST.to_json()) | changes)


def test_a_written_manifest_is_read_back_unchanged() -> None:
    assert parse_manifest(MANIFEST.to_json()) == MANIFEST


def test_what_is_told_outside_names_the_artifact_by_its_digest() -> None:
    assert MANIFEST.info().digest == MANIFEST.sha256
    assert MANIFEST.info().inputs == MANIFEST.inputs


@pytest.mark.parametrize("name", [field.name for field in fields(Manifest)])
def test_a_missing_field_is_named(name: str) -> None:
    document = orjson.loads(MANIFEST.to_json())
    del document[name]
    with pytest.raises(ModelRefused, match=f"no '{name}'"):
        parse_manifest(orjson.dumps(document))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "Prices"}, "'name' is malformed"),
        ({"version": "../2"}, "'version' is malformed"),
        ({"format": "onnx"}, "'format' is none of: skops, joblib"),
        ({"artifact": "../../etc/passwd"}, "'artifact' is malformed"),
        ({"artifact": ".hidden"}, "'artifact' is malformed"),
        ({"sha256": "0" * 63}, "'sha256' is malformed"),
        ({"sha256": 1}, "'sha256' must be a text"),
        ({"task": "ranking"}, "'task' is none of"),
        ({"inputs": []}, "1 to 10000 inputs"),
        ({"inputs": [3]}, r"'inputs\[0\]' is not a JSON object"),
        ({"inputs": {}}, "'inputs' must be a list"),
        ({"outputs": ["value"]}, "'outputs' are not those of a classification"),
        ({"outputs": ["probabilities"]}, "'outputs' are not those of a classification"),
        ({"outputs": [], "task": "regression"}, "'outputs' are not those of a regression"),
        ({"outputs": None}, "'outputs' are not those of a classification"),
        ({"labels": [1]}, "'labels' must be a text"),
        ({"metrics": {"accuracy": "high"}}, "'metrics.accuracy' must be a number"),
        ({"metrics": {"accuracy": True}}, "'metrics.accuracy' must be a number"),
        ({"created_at": "yesterday"}, "not an ISO 8601 time"),
        ({"created_at": "2026-01-02T03:04:05"}, "no time zone"),
        ({"runner": {"name": "scikit-learn", "reason": ""}}, "no 'runner.one_row_us'"),
        ({"runner": {"name": "a", "reason": "", "one_row_us": 1, "candidates": [{}]}}, r"candidates\[0\].name"),
        ({"sample_rows": [[1.0]]}, "one value per input"),
        ({"sample_rows": [[1.0, {}]]}, "not a plain value"),
        ({"from_the_future": 1}, "unknown field 'from_the_future'"),
    ],
)
def test_a_wrong_field_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        parse_manifest(changed(**changes))


def test_a_manifest_from_before_the_parity_gate_is_read() -> None:
    data = changed(runner={"name": "scikit-learn", "reason": "the reference", "one_row_us": 210.5})
    assert parse_manifest(data).runner.candidates == ()


def test_two_inputs_of_one_name_are_refused() -> None:
    inputs = orjson.loads(MANIFEST.to_json())["inputs"]
    with pytest.raises(ModelRefused, match="twice"):
        parse_manifest(changed(inputs=[inputs[0], inputs[0]]))


def test_an_integer_is_not_taken_for_a_boolean() -> None:
    inputs = orjson.loads(MANIFEST.to_json())["inputs"]
    inputs[0]["nullable"] = 0
    with pytest.raises(ModelRefused, match=r"inputs\[0\].nullable' must be true or false"):
        parse_manifest(changed(inputs=inputs))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", MANIFEST.to_json()[:-30]])
def test_damaged_json_is_refused(data: bytes) -> None:
    with pytest.raises(ModelRefused):
        parse_manifest(data)


def test_an_oversized_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ModelRefused, match="larger than"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))
