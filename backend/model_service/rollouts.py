"""Changes to what is served, written into the folder of models; every process that serves it takes them over.

Each change is one file that is replaced at once, under a lock that other threads, processes and machines wait for.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar

from backend.domain.errors import FieldError, Invalid, ModelNotFound, ModelUnavailable, VersionInUse
from backend.model_service.aliases import SHADOW, WeightedVersion, is_alias_name
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import is_version_name
from backend.model_service.repository import ModelRepository

T = TypeVar("T")

_MAX_WEIGHT = 1_000_000


class FolderRollouts:
    """Implements ``ModelRollouts`` on a folder of models.

    Args:
        repository: the folder.
        changed: called after each change, so that this process need not wait for its next look at the folder.
    """

    def __init__(self, repository: ModelRepository, changed: Callable[[], object] = lambda: None) -> None:
        self._repository = repository
        self._changed = changed

    async def aliases(self, model: str) -> dict[str, dict[str, int]]:
        """Return a model's aliases with their versions and weights."""
        return await asyncio.to_thread(self._reading, lambda: self._aliases(model))

    async def unloaded(self, model: str) -> frozenset[str]:
        """Return the versions that are kept from being served."""
        return await asyncio.to_thread(self._reading, lambda: self._unloaded(model))

    async def set_alias(self, model: str, alias: str, targets: Mapping[str, int]) -> None:
        """Point an alias at versions."""
        await self._change(lambda: self._set_alias(model, alias, targets))

    async def remove_alias(self, model: str, alias: str) -> None:
        """Take an alias away."""
        await self._change(lambda: self._repository.set_alias(model, alias, ()))

    async def load(self, model: str, version: str) -> None:
        """Let a version be served again."""
        await self._change(lambda: self._set_unloaded(model, version, unloaded=False))

    async def unload(self, model: str, version: str) -> None:
        """Keep a version from being served."""
        await self._change(lambda: self._set_unloaded(model, version, unloaded=True))

    async def _change(self, change: Callable[[], None]) -> None:
        await asyncio.to_thread(self._reading, change)
        self._changed()

    def _reading(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (ModelRefused, OSError) as error:
            reason = (
                error.reason if isinstance(error, ModelRefused) else "The model repository cannot be read or changed."
            )
            raise ModelUnavailable(reason) from error

    def _aliases(self, model: str) -> dict[str, dict[str, int]]:
        self._require(model)
        found = self._repository.aliases(model)
        return {alias: {each.version: each.weight for each in targets} for alias, targets in sorted(found.items())}

    def _unloaded(self, model: str) -> frozenset[str]:
        self._require(model)
        return self._repository.unloaded(model)

    def _set_alias(self, model: str, alias: str, targets: Mapping[str, int]) -> None:
        self._require(model)
        if not is_alias_name(alias):
            raise _invalid("/path/alias", "Must be letters, digits, '.', '-' and '_', at most 64, and not a number.")
        if not targets or (alias == SHADOW and len(targets) > 1):
            raise _invalid("/targets", "Must be one version." if targets else "Must name a version.")
        present, unloaded = self._repository.versions(model), self._repository.unloaded(model)
        for version, weight in targets.items():
            if version not in present:
                raise _invalid("/targets", "Names a version that the model does not have.")
            if version in unloaded:
                raise _invalid("/targets", "Names a version that is unloaded.")
            if not 0 < weight <= _MAX_WEIGHT:
                raise _invalid("/targets", f"A weight must be a whole number from 1 to {_MAX_WEIGHT}.")
        weighted = [WeightedVersion(version, weight) for version, weight in targets.items()]
        self._repository.set_alias(model, alias, weighted, existing_only=True)

    def _set_unloaded(self, model: str, version: str, *, unloaded: bool) -> None:
        self._require(model)
        if not is_version_name(version) or version not in self._repository.versions(model):
            raise ModelNotFound("The model has no such version.")
        aliases = self._repository.aliases(model) if unloaded else {}
        if any(version == target.version for targets in aliases.values() for target in targets):
            raise VersionInUse
        self._repository.set_unloaded(model, version, unloaded=unloaded)

    def _require(self, model: str) -> None:
        if model not in self._repository.names():
            raise ModelNotFound


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(errors=(FieldError(pointer, detail),))
