"""One model on the shelf: its versions and aliases, and which version a reference means."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.domain.errors import ModelNotFound, ModelUnavailable
from backend.model_service.aliases import SHADOW, STABLE, Aliases, version_for

if TYPE_CHECKING:
    from backend.model_service.served import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One model: its versions newest first, those that failed with their reasons, those unloaded, and its aliases.

    A version may be in both: what was loaded before serves on where its replacement failed. Aliases are known where
    they were read once, even if the file is damaged now.
    """

    versions: "dict[str, LoadedModel]"
    failed: dict[str, str]
    unloaded: frozenset[str] = frozenset()
    unloaded_is_known: bool = True
    unloaded_fault: str | None = None
    aliases: Aliases = field(default_factory=dict)
    aliases_are_known: bool = True
    aliases_fault: str | None = None

    def find(self, selector: str | None, caller_label: str = "") -> "LoadedModel":
        """Return the version that a selector means to a caller: a version, an alias, or None for the default.

        Raises:
            ModelNotFound: no such version or alias.
            ModelUnavailable: there is one, and it does not serve.
        """
        if selector is None and not self.aliases and self.aliases_are_known:
            # The newest, for nearly everybody who asks.
            for newest in self.versions.values():
                return newest
        version = self._version(selector, caller_label)
        loaded = self.versions.get(version)
        if loaded is None:
            # Not the reason: it is the operator's, and stands in the health and the summary.
            raise ModelUnavailable(
                "This version of the model is not loaded at the moment."
                if version in self.unloaded
                else "This version of the model could not be loaded."
            )
        return loaded

    def shadow(self) -> "LoadedModel | None":
        """Return the version that gets the rows of the others as well, where there is one that serves."""
        return self.versions.get(self.aliases[SHADOW][0].version) if SHADOW in self.aliases else None

    def default_version(self) -> str | None:
        """Which version a bare name means; None where it cannot be served."""
        try:
            return self.find(None).info.version
        except ModelUnavailable:
            return None

    def faults(self) -> list[str]:
        """What an operator has to repair, without paths."""
        found = [f"version {version}: {reason}" for version, reason in self.failed.items()]
        found += [fault for fault in (self.aliases_fault, self.unloaded_fault) if fault is not None]
        found += [
            f"alias {alias} points at version {target.version}, which does not serve"
            for alias, targets in self.aliases.items()
            for target in targets
            if target.version not in self.versions
        ]
        return found

    def _version(self, selector: str | None, caller_label: str) -> str:
        if selector is not None and (selector in self.versions or selector in self.failed or selector in self.unloaded):
            return selector
        if not self.aliases_are_known:
            # Guessing here could serve a version that the operator took back.
            raise ModelUnavailable("This model's aliases could not be read.")
        if selector is not None:
            if selector not in self.aliases:
                raise ModelNotFound
            return version_for(self.aliases[selector], caller_label)
        if STABLE in self.aliases:
            return version_for(self.aliases[STABLE], caller_label)
        return next(iter(self.versions), "")
