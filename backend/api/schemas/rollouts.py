"""Aliases and versions on the wire, as the operator rolls them out."""

from typing import Annotated

from pydantic import Field, model_validator

from backend.api.schemas.common import In, Out

_VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Version = Annotated[str, Field(pattern=_VERSION, max_length=64)]
Weight = Annotated[int, Field(ge=1, le=1_000_000)]


class AliasIn(In):
    """Where an alias is to point: at one version, or at several by weight."""

    target: Version | None = Field(default=None, description="One version.")
    targets: dict[Version, Weight] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="Versions with weights: each caller stays on one side. The alias `shadow` takes one version.",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> "AliasIn":
        if (self.target is None) == (self.targets is None):
            raise ValueError("needs either target or targets")
        return self

    @property
    def weights(self) -> dict[str, int]:
        """The versions and their weights."""
        return {self.target: 1} if self.target is not None else dict(self.targets or {})


class AliasOut(Out):
    """An alias and where it points."""

    model: str
    alias: str
    targets: dict[str, int] = Field(description="Versions and their weights.")


class VersionStateOut(Out):
    """Whether a version is to be served. Replicas follow within seconds."""

    model: str
    version: str
    loaded: bool
