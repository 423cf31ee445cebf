"""From the folder of models to shelves, at the start and again whenever something in the folder has changed.

What has not changed is carried over as it is. What has is loaded and warmed before anything is replaced, so that there
is no moment without it. What cannot be loaded keeps what served before, and says so; what was removed is let go.
"""

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from backend.model_service.errors import ModelRefused, ModelUnreadable
from backend.model_service.lanes import Lanes
from backend.model_service.native_threads import one_native_thread
from backend.model_service.repository import ModelRepository
from backend.model_service.shelf import Shelf
from backend.services.ports.metrics import Metrics

if TYPE_CHECKING:
    from backend.model_service.served import LoadedModel
    from backend.services.ports.model_files import Marks

logger = logging.getLogger(__name__)

_SERVED: Final = "backend.model_service.served"
"""Imported by name, with the first model: numpy, pandas and scikit-learn are seconds of a start and a hundred megabytes
of memory, which whoever serves no model does without."""


class Loader:
    """Loads a folder, counting. Blocking, and for one thread at a time."""

    def __init__(
        self,
        repository: ModelRepository,
        lanes: Lanes,
        *,
        allow_pickle: bool,
        max_rows: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._repository = repository
        self._lanes = lanes
        self._allow_pickle = allow_pickle
        self._max_rows = max_rows
        self._metrics = metrics
        self._seen: dict[tuple[str, str], Marks] = {}
        self._is_equipped = False
        self.loads = 0

    def load(self, current: Mapping[str, Shelf]) -> dict[str, Shelf]:
        """Return what the folder holds now, taking from ``current`` what has not changed.

        Raises:
            OSError: the folder, which held models before, cannot be read.
        """
        if current:
            self._repository.require_readable()
        seen = self._repository.look()
        names = seen.names()
        is_first = bool(names) and not self._is_equipped
        if is_first:
            import_module(_SERVED)
            self._is_equipped = True
        # As on the worker: what is measured here is what it will be. For good, because the matrix products' number is
        # the process's: taken back here, it could be taken back from a worker that has set it meanwhile.
        one_native_thread()
        try:
            shelves = {name: self._shelf(seen, name, current.get(name)) for name in names}
        finally:
            if is_first:
                # A worker that runs already was prepared before the compiled libraries came.
                self._lanes.renew_worker()
        found = {(name, version) for name, shelf in shelves.items() for version in (*shelf.versions, *shelf.failed)}
        self._seen = {key: mark for key, mark in self._seen.items() if key in found}
        return {name: shelf for name, shelf in shelves.items() if shelf.versions or shelf.failed or shelf.unloaded}

    def _shelf(self, repository: ModelRepository, name: str, before: Shelf | None) -> Shelf:
        present = repository.versions(name)
        unloaded_fault = None
        try:
            unloaded = repository.unloaded(name) & set(present)
        except ModelRefused as refused:
            if before is None or not before.unloaded_is_known:
                # Guessing here could serve a version that the operator took back.
                return Shelf(versions={}, failed=dict.fromkeys(present, refused.reason), unloaded_is_known=False)
            unloaded, unloaded_fault = before.unloaded, refused.reason
        before = before or Shelf(versions={}, failed={}, aliases_are_known=False)
        wanted = [version for version in present if version not in unloaded]
        versions, failed = self._versions(repository, name, wanted, before)
        try:
            aliases = repository.aliases(name)
            return Shelf(
                versions=versions, failed=failed, unloaded=unloaded, unloaded_fault=unloaded_fault, aliases=aliases
            )
        except ModelRefused as refused:
            if before.aliases_fault != refused.reason:
                logger.warning("model %s: %s", name, refused.reason)
            return Shelf(
                versions=versions,
                failed=failed,
                unloaded=unloaded,
                unloaded_fault=unloaded_fault,
                aliases=before.aliases,
                aliases_are_known=before.aliases_are_known,
                aliases_fault=refused.reason,
            )

    def _versions(
        self, repository: ModelRepository, name: str, wanted: Sequence[str], before: Shelf
    ) -> "tuple[dict[str, LoadedModel], dict[str, str]]":
        versions: dict[str, LoadedModel] = {}
        failed: dict[str, str] = {}
        for version in wanted:
            loaded = before.versions.get(version)
            reason = before.failed.get(version)
            # Taken before the files are read: what changes meanwhile is another mark the next time.
            mark = repository.fingerprint(name, version)
            if self._seen.get((name, version)) != mark:
                loaded, reason, is_known = self._version(repository, name, version, loaded, reason)
                if is_known:
                    self._seen[name, version] = mark
            if loaded is not None:
                versions[version] = loaded
            if reason is not None:
                failed[version] = reason
        return versions, failed

    def _version(
        self,
        repository: ModelRepository,
        name: str,
        version: str,
        before: "LoadedModel | None",
        known_fault: str | None,
    ) -> "tuple[LoadedModel | None, str | None, bool]":
        """Return what serves, what is wrong with the version, and whether that will stay so until its files change."""
        try:
            loaded: LoadedModel = import_module(_SERVED).load_model(
                repository,
                name,
                version,
                self._lanes,
                allow_pickle=self._allow_pickle,
                max_rows=self._max_rows,
                metrics=self._metrics,
            )
        except ModelRefused as refused:
            if refused.reason != known_fault:
                logger.warning("model %s version %s is not loaded: %s", name, version, refused.reason)
            return before, refused.reason, not isinstance(refused, ModelUnreadable)
        self.loads += 1
        return loaded, None, True
