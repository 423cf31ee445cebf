"""Registration: from a fitted pipeline and a sample of its rows to a published, verified version."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from backend.domain.errors import SchemaMismatch
from backend.domain.models import Feature, OutputOptions, Task, is_model_name
from backend.model_service.aliases import WeightedVersion, is_alias_name
from backend.model_service.artifacts import ARTIFACT_NAMES, load_artifact
from backend.model_service.batch import BatchBuilder
from backend.model_service.encoding import RowEncoder
from backend.model_service.errors import ModelRefused, ModelServiceError, RegistrationError, WrongAnswer
from backend.model_service.evaluation import check_parity, held_out_metrics
from backend.model_service.gate import choose_runner
from backend.model_service.magnitudes import with_limits
from backend.model_service.manifest import (
    ArtifactFormat,
    Container,
    Manifest,
    Output,
    Row,
    RunnerChoice,
    is_version_name,
)
from backend.model_service.native_threads import one_native_thread
from backend.model_service.onnx_runner import OnnxRunner
from backend.model_service.pipelines import container_of, load_pipeline_file, predicts, task_of, write_pipeline
from backend.model_service.releases import library_versions
from backend.model_service.repository import ModelRepository
from backend.model_service.runners import Columns, Runner, SklearnRunner, class_labels, label_name
from backend.model_service.sample import Sample, as_container, read_sample
from backend.services.ports.model_files import ModelFiles

_SAMPLE_ROWS_KEPT: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A published version, and what was chosen and found on the way, a line each."""

    manifest: Manifest
    findings: tuple[str, ...]


def register(
    root: Path | ModelFiles,
    pipeline: Any,
    *,
    name: str,
    sample: Path,
    target: str | None = None,
    version: str | None = None,
    alias: str | None = None,
    allow_pickle: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> Registered:
    """Verify a fitted pipeline and publish it as a new version.

    Args:
        root: the folder of models, or another store of them.
        pipeline: a fitted scikit-learn estimator, or a path to one (see :func:`load_pipeline_file`).
        name: the model's name.
        sample: CSV with a header: rows as callers will send them, held out from training if ``target`` is given.
        target: the sample's column with the truth; held-out metrics are computed from it.
        version: by default the next number.
        alias: pointed at the new version once it is published.
        allow_pickle: read pickle files, and write joblib where skops cannot hold the pipeline.
        metrics: further metrics to keep.

    Raises:
        RegistrationError: naming what has to change. Nothing was published.
    """
    repository = ModelRepository(root)
    try:
        version = _check_names(repository, name, version, alias)
    except OSError as error:
        raise RegistrationError(f"The model repository cannot be read ({type(error).__name__}).") from error
    if isinstance(pipeline, Path):
        pipeline = load_pipeline_file(pipeline, allow_pickle=allow_pickle)
    try:
        with one_native_thread():  # as it will be served, and so measured
            candidate = _examine(pipeline, sample, target, allow_pickle=allow_pickle)
        manifest = _manifest(candidate, name, version, dict(metrics or {}))
        repository.publish(manifest, candidate.artifact, candidate.runner_artifact)
        if alias is not None:
            repository.set_alias(name, alias, [WeightedVersion(version, 1)])
    except (ModelRefused, WrongAnswer, FileExistsError) as error:
        raise RegistrationError(str(error)) from error
    except OSError as error:
        raise RegistrationError(f"The version cannot be written ({type(error).__name__}).") from error
    return Registered(manifest=manifest, findings=_findings(manifest, candidate, alias))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A pipeline that was written, read back, and found to answer as before."""

    task: Task
    container: Container
    format: ArtifactFormat
    artifact: bytes
    sample: Sample
    outputs: tuple[Output, ...]
    labels: tuple[str, ...] | None
    metrics: dict[str, float]
    runner: RunnerChoice
    runner_artifact: bytes | None
    notes: tuple[str, ...]


def _check_names(repository: ModelRepository, name: str, version: str | None, alias: str | None) -> str:
    if not is_model_name(name):
        raise RegistrationError("The name must be lower-case letters, digits, '.', '-' and '_', at most 64.")
    if alias is not None and not is_alias_name(alias):
        raise RegistrationError("The alias must be letters, digits, '.', '-' and '_', at most 64, and not a number.")
    present = repository.versions(name)
    if version is None:
        return str(max((int(each) for each in present if each.isdigit()), default=0) + 1)
    if not is_version_name(version):
        raise RegistrationError("The version must be letters, digits, '.', '-' and '_', at most 64.")
    if version in present:
        raise RegistrationError(f"{name} has a version {version} already.")
    return version


def _examine(pipeline: Any, sample_path: Path, target: str | None, *, allow_pickle: bool) -> _Candidate:
    notes: list[str] = []
    if hasattr(pipeline, "best_estimator_"):
        notes.append("the best estimator of the search is served, without the search")
        pipeline = pipeline.best_estimator_
    task = task_of(pipeline)
    classes = class_labels(pipeline) if task is Task.CLASSIFICATION else ()
    artifact_format, artifact = write_pipeline(pipeline, allow_pickle=allow_pickle)
    served = load_artifact(artifact, artifact_format, allow_pickle=allow_pickle)
    sample = read_sample(sample_path, pipeline, target=target, predicts=partial(predicts, pipeline))
    container = container_of(pipeline, sample.frame)
    builder = BatchBuilder(sample.inputs, container)
    runner = SklearnRunner(served, task, builder)
    rows = _encode(sample)
    answered = _compare(pipeline, as_container(sample.frame, container), runner, rows)
    metrics = {} if sample.target is None else held_out_metrics(task, sample.target, answered, classes)
    chosen, fastest = choose_runner(served, task, builder, sample.inputs, rows)
    sample = replace(sample, inputs=with_limits(sample.inputs, rows, runner, fastest))
    return _Candidate(
        task=task,
        container=container,
        format=artifact_format,
        artifact=artifact,
        sample=sample,
        outputs=_outputs(answered),
        labels=tuple(label_name(label) for label in classes) or None,
        metrics=metrics,
        runner=chosen,
        runner_artifact=fastest.artifact if isinstance(fastest, OnnxRunner) else None,
        notes=(*notes, *sample.notes),
    )


def _encode(sample: Sample) -> list[Row]:
    """Take the sample's rows the way a caller's rows go."""
    encoder = RowEncoder(sample.inputs, max_rows=len(sample.rows))
    try:
        return encoder.encode(sample.rows).rows
    except SchemaMismatch as error:
        _, _, row, *place = error.errors[0].pointer.split("/")
        column = sample.inputs[int(place[0])].name if place else "?"
        raise RegistrationError(
            f"Row {int(row) + 1} of the sample, column {column!r}: {error.errors[0].detail}"
        ) from error


def _outputs(answered: Columns) -> tuple[Output, ...]:
    if answered.values is not None:
        return (Output.VALUE,)
    return (Output.LABEL,) if answered.probabilities is None else (Output.LABEL, Output.PROBABILITIES)


def _compare(pipeline: Any, data: Any, runner: Runner, rows: list[Row]) -> Columns:
    try:
        answered = runner.predict(rows, OutputOptions())
        check_parity(pipeline, data, answered)
    except ModelServiceError:
        raise
    except Exception as error:
        raise RegistrationError(f"The pipeline fails on the sample: {type(error).__name__}: {error}") from error
    return answered


def _manifest(candidate: _Candidate, name: str, version: str, metrics: dict[str, float]) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        format=candidate.format,
        artifact=ARTIFACT_NAMES[candidate.format],
        sha256=sha256(candidate.artifact).hexdigest(),
        task=candidate.task,
        container=candidate.container,
        inputs=candidate.sample.inputs,
        outputs=candidate.outputs,
        labels=candidate.labels,
        runner=candidate.runner,
        metrics=metrics | candidate.metrics,
        created_at=datetime.now(UTC),
        library_versions=library_versions(candidate.runner),
        sample_rows=candidate.sample.rows[:_SAMPLE_ROWS_KEPT],
    )


def _findings(manifest: Manifest, candidate: _Candidate, alias: str | None) -> tuple[str, ...]:
    labels = f" into {', '.join(manifest.labels)}" if manifest.labels else ""
    lines = [
        f"{manifest.name}@{manifest.version}: {manifest.task}{labels}",
        f"format {manifest.format}, {len(candidate.artifact)} bytes, SHA-256 {manifest.sha256[:12]}",
        f"rows reach the pipeline as {'a data frame' if manifest.container is Container.FRAME else 'an array'}",
        *(f"input {_describe(feature)}" for feature in manifest.inputs),
        f"runner {manifest.runner.name}: {manifest.runner.one_row_us:g} µs for one row. {manifest.runner.reason}",
        f"served answers equal the pipeline's on {len(candidate.sample.rows)} sample rows",
        *(f"{metric} {value:.4g}" for metric, value in manifest.metrics.items()),
        *candidate.notes,
    ]
    if alias is not None:
        lines.append(f"alias {alias} points at version {manifest.version}")
    return tuple(lines)


def _describe(feature: Feature) -> str:
    known = f", one of {len(feature.categories)} categories" if feature.categories is not None else ""
    return f"{feature.name}: {feature.type}{known}{', may be null' if feature.nullable else ''}"
