"""Reading a manifest strictly: every field present, of its type and within bounds, or the version is refused.

A field that is not known is refused as well: a manifest that a newer release wrote may mean something that
this one would silently get wrong.
"""

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Final, TypeVar

import orjson

from backend.domain.models import Feature, FeatureType, Task, is_model_name
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import (
    OUTPUTS,
    ArtifactFormat,
    Candidate,
    Container,
    Manifest,
    Output,
    Row,
    RunnerArtifact,
    RunnerChoice,
    Scalar,
    Verdict,
    is_version_name,
)

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024

_MAX_FEATURES: Final = 10_000
_MAX_NAME_CHARACTERS: Final = 256
_ARTIFACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KIND_NAMES: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ModelRefused: with the field that is wrong.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelRefused(f"The manifest is larger than {MAX_MANIFEST_BYTES} bytes.")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ModelRefused("The manifest is not valid JSON.") from error
    top = _Fields(document, "", Manifest)
    inputs = _inputs(top.get("inputs", list))
    task = top.choice("task", Task)
    return Manifest(
        name=top.text("name", is_model_name),
        version=top.text("version", is_version_name),
        format=top.choice("format", ArtifactFormat),
        artifact=top.text("artifact", _is_file_name),
        sha256=top.text("sha256", _is_sha256),
        task=task,
        container=top.choice("container", Container),
        inputs=inputs,
        outputs=_outputs(top.texts("outputs"), task),
        labels=top.texts("labels"),
        runner=_runner(top.get("runner", dict)),
        metrics={name: _number(value, f"metrics.{name}") for name, value in top.get("metrics", dict).items()},
        created_at=_instant(top.text("created_at")),
        library_versions={
            name: _expect(value, str, f"library_versions.{name}")
            for name, value in top.get("library_versions", dict).items()
        },
        sample_rows=tuple(_sample_row(row, len(inputs)) for row in top.get("sample_rows", list)),
    )


class _Fields:
    """The fields of one JSON object; ``where`` is how the object is called in a reason."""

    def __init__(self, value: object, where: str, shape: type) -> None:
        if not isinstance(value, dict):
            raise ModelRefused(f"The manifest{where and f' at {where!r}'} is not a JSON object.")
        self._values: dict[str, object] = value
        self._prefix = f"{where}." if where else ""
        unknown = value.keys() - {field.name for field in fields(shape)}
        if unknown:
            raise ModelRefused(f"The manifest has an unknown field {self._prefix + min(unknown)!r}.")

    def has(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> object:
        if key not in self._values:
            raise ModelRefused(f"The manifest has no {self._prefix + key!r}.")
        return self._values[key]

    def get(self, key: str, kind: type[T]) -> T:
        return _expect(self.raw(key), kind, self._prefix + key)

    def text(self, key: str, accepts: Callable[[str], bool] = bool) -> str:
        text = self.get(key, str)
        if not accepts(text):
            raise ModelRefused(f"The manifest's {self._prefix + key!r} is malformed.")
        return text

    def texts(self, key: str) -> tuple[str, ...] | None:
        if self.raw(key) is None:
            return None
        return tuple(_expect(item, str, self._prefix + key) for item in self.get(key, list))

    def choice(self, key: str, kind: type[E]) -> E:
        try:
            return kind(self.get(key, str))
        except ValueError as error:
            raise ModelRefused(f"The manifest's {self._prefix + key!r} is none of: {', '.join(kind)}.") from error


def _expect(value: object, kind: type[T], where: str) -> T:
    # An exact type: true is an int to isinstance.
    if type(value) is not kind:
        raise ModelRefused(f"The manifest's {where!r} must be {_KIND_NAMES[kind]}.")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ModelRefused(f"The manifest's {where!r} must be a number.")
    return float(value)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ModelRefused("The manifest's 'created_at' is not an ISO 8601 time.") from error
    if instant.tzinfo is None:
        raise ModelRefused("The manifest's 'created_at' has no time zone.")
    return instant


def _outputs(names: tuple[str, ...] | None, task: Task) -> tuple[Output, ...]:
    for outputs in OUTPUTS[task]:
        if names == outputs:
            return outputs
    raise ModelRefused(f"The manifest's 'outputs' are not those of a {task}.")


def _runner(value: object) -> RunnerChoice:
    found = _Fields(value, "runner", RunnerChoice)
    return RunnerChoice(
        name=found.text("name"),
        reason=found.get("reason", str),
        one_row_us=_number(found.raw("one_row_us"), "runner.one_row_us"),
        candidates=tuple(
            _candidate(item, f"runner.candidates[{index}]")
            # Manifests of before the parity gate name none.
            for index, item in enumerate(found.get("candidates", list) if found.has("candidates") else ())
        ),
        artifact=_runner_artifact(found.raw("artifact")) if found.has("artifact") else None,
    )


def _runner_artifact(value: object) -> RunnerArtifact | None:
    if value is None:
        return None
    found = _Fields(value, "runner.artifact", RunnerArtifact)
    return RunnerArtifact(name=found.text("name", _is_file_name), sha256=found.text("sha256", _is_sha256))


def _is_file_name(text: str) -> bool:
    return _ARTIFACT.fullmatch(text) is not None


def _is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def _candidate(item: object, where: str) -> Candidate:
    found = _Fields(item, where, Candidate)
    return Candidate(
        name=found.text("name"),
        verdict=found.choice("verdict", Verdict),
        reason=found.get("reason", str),
        one_row_us=_measured(found.raw("one_row_us"), f"{where}.one_row_us"),
        max_difference=_measured(found.raw("max_difference"), f"{where}.max_difference"),
    )


def _measured(value: object, where: str) -> float | None:
    return None if value is None else _number(value, where)


def _inputs(items: list[object]) -> tuple[Feature, ...]:
    if not 0 < len(items) <= _MAX_FEATURES:
        raise ModelRefused(f"The manifest must have 1 to {_MAX_FEATURES} inputs.")
    inputs = tuple(_feature(item, f"inputs[{index}]") for index, item in enumerate(items))
    if len({feature.name for feature in inputs}) != len(inputs):
        raise ModelRefused("The manifest names an input twice.")
    return inputs


def _feature(item: object, where: str) -> Feature:
    found = _Fields(item, where, Feature)
    return Feature(
        name=found.text("name", lambda text: 0 < len(text) <= _MAX_NAME_CHARACTERS),
        type=found.choice("type", FeatureType),
        nullable=found.get("nullable", bool),
        categories=found.texts("categories"),
        example=_scalar(found.raw("example"), f"{where}.example"),
        # Manifests of before the limits were measured name none.
        limit=_limit(found.raw("limit"), f"{where}.limit") if found.has("limit") else None,
    )


def _limit(value: object, where: str) -> float | None:
    limit = _measured(value, where)
    if limit is not None and limit <= 0:
        raise ModelRefused(f"The manifest's {where!r} must be above zero.")
    return limit


def _sample_row(row: object, width: int) -> Row:
    values = _expect(row, list, "sample_rows")
    if len(values) != width:
        raise ModelRefused("A row of the manifest's 'sample_rows' does not have one value per input.")
    return tuple(_scalar(value, "sample_rows") for value in values)


def _scalar(value: object, where: str) -> Scalar:
    if value is None or isinstance(value, float | int | str):
        return value
    raise ModelRefused(f"The manifest's {where!r} holds something that is not a plain value.")
