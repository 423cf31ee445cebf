"""Models as the outside sees them: references, typed inputs, and what is said about a served version."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from backend.domain.errors import ModelNotFound

_REFERENCE = re.compile(r"([a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?)(?:@([A-Za-z0-9][A-Za-z0-9._-]{0,63}))?")


class Task(StrEnum):
    """What a model answers with."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


class FeatureType(StrEnum):
    """The type of one input feature."""

    FLOAT = "float"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One typed input. ``categories``: the values known at training, ``None`` when any is accepted.

    ``limit``: the largest magnitude of a number that the model computes with, ``None`` when any will do.
    """

    name: str
    type: FeatureType
    nullable: bool = False
    categories: tuple[str, ...] | None = None
    example: float | int | bool | str | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class ModelRef:
    """``iris``, ``iris@2`` or ``iris@stable``, taken apart; ``selector`` is a version or an alias."""

    name: str
    selector: str | None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Take a reference apart.

        Raises:
            ModelNotFound: the text cannot be the name of a model.
        """
        return _reference(text)


@lru_cache(maxsize=1024)
def _reference(text: str) -> ModelRef:
    # The same few for request after request; what names nothing is not kept.
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ModelNotFound
    return ModelRef(match[1], match[2])


def is_model_reference(text: str) -> bool:
    """Whether a text may name a model, a version or an alias."""
    return _REFERENCE.fullmatch(text) is not None


def is_model_name(text: str) -> bool:
    """Whether a text may name a model: lower-case letters, digits, dot, dash and underscore, at most 64."""
    match = _REFERENCE.fullmatch(text)
    return match is not None and match[2] is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is told about one version of a model. ``digest`` is the artifact's SHA-256 in hexadecimal."""

    name: str
    version: str
    digest: str
    format: str
    task: Task
    inputs: tuple[Feature, ...]
    labels: tuple[str, ...] | None
    runner: str
    runner_reason: str
    metrics: dict[str, float]
    created_at: datetime
    library_versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSummary:
    """A model with all its versions, newest first; ``failed`` gives the reason for each that cannot serve.

    ``unloaded`` are those that the operator keeps from being served. ``aliases`` gives the version that most callers
    of an alias get, ``targets`` all of its versions.
    """

    name: str
    versions: tuple[ModelInfo, ...]
    aliases: dict[str, str]
    default_version: str | None
    failed: dict[str, str]
    unloaded: tuple[str, ...] = ()
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def only(self, allowed: Collection[str] | None) -> "ModelSummary | None":
        """Return what an allow-list of names, versions and aliases leaves of the model; ``None`` where that is nothing.

        An alias on the list shows itself and every version that it may mean; a version shows itself, and the aliases
        that mean nothing else.
        """
        if allowed is None or self.name in allowed:
            return self
        listed = {alias for alias in self.targets if f"{self.name}@{alias}" in allowed}
        versions = {each for each in self.numbers if f"{self.name}@{each}" in allowed}
        versions |= {version for alias in listed for version in self.targets[alias]}
        if not versions and not listed:
            return None
        shown = listed | {alias for alias, targets in self.targets.items() if versions.issuperset(targets)}
        return replace(
            self,
            versions=tuple([info for info in self.versions if info.version in versions]),
            aliases={alias: version for alias, version in self.aliases.items() if alias in shown},
            default_version=self.default_version if self.default_version in versions else None,
            failed={version: reason for version, reason in self.failed.items() if version in versions},
            unloaded=tuple([version for version in self.unloaded if version in versions]),
            targets={alias: targets for alias, targets in self.targets.items() if alias in shown},
        )

    @property
    def numbers(self) -> set[str]:
        """The names of all its versions, whatever state they are in."""
        return {info.version for info in self.versions} | set(self.failed) | set(self.unloaded)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the caller wants of each row's answer; part of the cache key and of the lane."""

    probabilities: bool = True
