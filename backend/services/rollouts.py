"""Which versions of a model are served, and what its aliases mean: changed by the operator, every change recorded.

The record is written first, in a unit of work that is committed last: a change that cannot be recorded is not made, and
one that is refused is not recorded.
"""

from collections.abc import Mapping
from typing import Any

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.errors import ModelNotFound
from backend.services.ports import ModelRollouts, UnitOfWork


class RolloutService:
    """What the operator may do with the versions that there are."""

    def __init__(self, *, unit: UnitOfWork, rollouts: ModelRollouts) -> None:
        self._unit = unit
        self._rollouts = rollouts

    async def aliases(self, model: str) -> dict[str, dict[str, int]]:
        """Return a model's aliases: of each, the versions and their weights.

        Raises:
            ModelNotFound: there is no such model.
        """
        return await self._rollouts.aliases(model)

    async def set_alias(self, actor: Actor, model: str, alias: str, targets: Mapping[str, int]) -> dict[str, int]:
        """Point an alias at versions by weight, and return them.

        Raises:
            ModelNotFound: there is no such model.
            Invalid: no such version, one that is unloaded, or no way to name an alias.
        """
        before = (await self._rollouts.aliases(model)).get(alias, {})
        after = dict(targets)
        if before != after:
            await self._record(actor, Action.MODEL_ALIAS_SET, f"{model}@{alias}", before=before, after=after)
            await self._rollouts.set_alias(model, alias, after)
        return after

    async def remove_alias(self, actor: Actor, model: str, alias: str) -> None:
        """Take an alias away.

        Raises:
            ModelNotFound: there is no such model, or no such alias of it.
        """
        before = (await self._rollouts.aliases(model)).get(alias)
        if before is None:
            raise ModelNotFound("The model has no such alias.")
        await self._record(actor, Action.MODEL_ALIAS_REMOVED, f"{model}@{alias}", before=before)
        await self._rollouts.remove_alias(model, alias)

    async def load(self, actor: Actor, model: str, version: str) -> None:
        """Let a version be served again.

        Raises:
            ModelNotFound: there is none.
        """
        if version in await self._rollouts.unloaded(model):
            await self._record(actor, Action.MODEL_LOADED, f"{model}@{version}")
        await self._rollouts.load(model, version)

    async def unload(self, actor: Actor, model: str, version: str) -> None:
        """Keep a version from being served, on every replica, until it is loaded again.

        Raises:
            ModelNotFound: there is none.
            VersionInUse: an alias points at it.
        """
        if version not in await self._rollouts.unloaded(model):
            await self._record(actor, Action.MODEL_UNLOADED, f"{model}@{version}")
        await self._rollouts.unload(model, version)

    async def record(self, actor: Actor, action: Action, model: str, version: str, **after: Any) -> None:
        """Record what was done to a version elsewhere: it was added or removed."""
        await self._record(actor, action, f"{model}@{version}", after=after)

    async def _record(
        self,
        actor: Actor,
        action: Action,
        target: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        entry = AuditEntry(actor=actor, action=action, target_id=target, before=before or {}, after=after or {})
        await self._unit.audit.record(PLATFORM_CHAIN, entry)
