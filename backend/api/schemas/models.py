"""Models on the wire."""

from pydantic import Field

from backend.api.schemas.common import Instant, Out
from backend.domain.models import Feature, ModelInfo, ModelSummary


class FeatureOut(Out):
    """One typed input."""

    name: str
    type: str
    nullable: bool
    categories: list[str] | None

    @classmethod
    def of(cls, feature: Feature) -> "FeatureOut":
        """Return a feature's wire form."""
        return cls(
            name=feature.name,
            type=feature.type,
            nullable=feature.nullable,
            categories=None if feature.categories is None else list(feature.categories),
        )


class RunnerOut(Out):
    """What runs the model, and why that was chosen."""

    name: str
    reason: str


class ModelVersionOut(Out):
    """One version of a model."""

    name: str
    version: str
    task: str
    inputs: list[FeatureOut]
    labels: list[str] | None
    runner: RunnerOut
    metrics: dict[str, float] = Field(description="Measured at registration, on data held out from training.")
    format: str
    sha256: str
    created_at: Instant
    library_versions: dict[str, str]

    @classmethod
    def of(cls, info: ModelInfo) -> "ModelVersionOut":
        """Return a version's wire form."""
        return cls(
            name=info.name,
            version=info.version,
            task=info.task,
            inputs=[FeatureOut.of(feature) for feature in info.inputs],
            labels=None if info.labels is None else list(info.labels),
            runner=RunnerOut(name=info.runner, reason=info.runner_reason),
            metrics=info.metrics,
            format=info.format,
            sha256=info.digest,
            created_at=info.created_at,
            library_versions=info.library_versions,
        )


class ModelOut(Out):
    """A model with its versions, newest first. `task`, `inputs` and the like are the default version's."""

    name: str
    default_version: str | None
    aliases: dict[str, str]
    task: str | None
    inputs: list[FeatureOut]
    runner: RunnerOut | None
    metrics: dict[str, float]
    versions: list[ModelVersionOut]
    unavailable_versions: list[str]
    unloaded_versions: list[str]

    @classmethod
    def of(cls, summary: ModelSummary) -> "ModelOut":
        """Return a model's wire form."""
        versions = [ModelVersionOut.of(info) for info in summary.versions]
        default = next((each for each in versions if each.version == summary.default_version), None)
        return cls(
            name=summary.name,
            default_version=summary.default_version,
            aliases=summary.aliases,
            task=default.task if default else None,
            inputs=default.inputs if default else [],
            runner=default.runner if default else None,
            metrics=default.metrics if default else {},
            versions=versions,
            unavailable_versions=sorted(summary.failed),
            unloaded_versions=list(summary.unloaded),
        )
