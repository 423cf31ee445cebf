"""The manifest: all that is known of one version of a model, next to its artifact.

::

    {"name": "iris", "version": "2", "format": "skops", "artifact": "model.skops", "sha256": "…64 hex…",
     "task": "classification", "container": "array", "labels": ["setosa", …] | null,
     "inputs": [{"name": "sepal_length", "type": "float", "nullable": false, "categories": null,
                 "example": 5.1, "limit": 3.4e38 | null}, …],
     "outputs": ["label", "probabilities"] | ["label"] | ["value"],
     "runner": {"name": "treelite", "reason": "…", "one_row_us": 31.5,
                "artifact": {"name": "model.onnx", "sha256": "…"} | null,
                "candidates": [{"name": "treelite", "verdict": "chosen", "reason": "…", "one_row_us": 31.5,
                                "max_difference": 0.0}, …]},
     "metrics": {"accuracy": 0.97, …}, "created_at": "2026-01-02T03:04:05+00:00",
     "library_versions": {"scikit-learn": "1.9.1", …}, "sample_rows": [[5.1, 3.5, 1.4, 0.2], …]}

Reading one stands in :mod:`backend.model_service.manifest_reading`.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

import orjson

from backend.domain.models import Feature, ModelInfo, Task

Scalar: TypeAlias = float | int | bool | str | None
Row: TypeAlias = tuple[Scalar, ...]

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_version_name(text: str) -> bool:
    """Whether a text may name a version or an alias: letters, digits, dot, dash, underscore, at most 64."""
    return _VERSION.fullmatch(text) is not None


class ArtifactFormat(StrEnum):
    """How the artifact is written. ``skops`` holds no code; ``joblib`` is pickle and can run anything."""

    SKOPS = "skops"
    JOBLIB = "joblib"


class Container(StrEnum):
    """What the pipeline was fitted on, and so what it is given: a plain array or a data frame with names."""

    ARRAY = "array"
    FRAME = "frame"


class Output(StrEnum):
    """What a row's prediction holds, by the name it has in the answer."""

    LABEL = "label"
    PROBABILITIES = "probabilities"
    VALUE = "value"


OUTPUTS: Final[dict[Task, tuple[tuple[Output, ...], ...]]] = {
    Task.CLASSIFICATION: ((Output.LABEL, Output.PROBABILITIES), (Output.LABEL,)),
    Task.REGRESSION: ((Output.VALUE,),),
}
"""What models of a task may have as their outputs."""


class Verdict(StrEnum):
    """What the parity gate found of a runner."""

    CHOSEN = "chosen"
    SLOWER = "slower"
    DIFFERENT = "different"
    UNSUITED = "unsuited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A runner that was tried. Of one that could not be made, or did not get that far, nothing was measured."""

    name: str
    verdict: Verdict
    reason: str
    one_row_us: float | None = None
    max_difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerArtifact:
    """A file of the runner's own, next to the pipeline's."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerChoice:
    """The runner that serves the version, why it was chosen, and what one row cost when it was measured."""

    name: str
    reason: str
    one_row_us: float
    candidates: tuple[Candidate, ...] = ()
    artifact: RunnerArtifact | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a model. ``sample_rows`` are rows of its inputs in order, for warm-up and examples."""

    name: str
    version: str
    format: ArtifactFormat
    artifact: str
    sha256: str
    task: Task
    container: Container
    inputs: tuple[Feature, ...]
    outputs: tuple[Output, ...]
    labels: tuple[str, ...] | None
    runner: RunnerChoice
    metrics: dict[str, float]
    created_at: datetime
    library_versions: dict[str, str]
    sample_rows: tuple[Row, ...]

    def info(self) -> ModelInfo:
        """Return what is told to the outside."""
        return ModelInfo(
            name=self.name,
            version=self.version,
            digest=self.sha256,
            format=self.format.value,
            task=self.task,
            inputs=self.inputs,
            labels=self.labels,
            runner=self.runner.name,
            runner_reason=self.runner.reason,
            metrics=self.metrics,
            created_at=self.created_at,
            library_versions=self.library_versions,
        )

    def to_json(self) -> bytes:
        """Return the file's bytes: indented, because operators read it."""
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
