"""The shared model service: every model of a folder, loaded once and served to all callers of the process."""

import asyncio
import logging
from pathlib import Path
from typing import Self

from backend.domain.errors import ModelNotFound
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.models import ModelRef, ModelSummary
from backend.model_service.aliases import main_version
from backend.model_service.encoding import DEFAULT_MAX_ROWS
from backend.model_service.errors import ModelRefused
from backend.model_service.fitted import one_openmp_thread
from backend.model_service.lanes import LaneLimits, Lanes
from backend.model_service.repository import ModelRepository
from backend.model_service.served import LoadedModel, load_model
from backend.model_service.shelf import Shelf

logger = logging.getLogger(__name__)


class ModelService:
    """A :class:`ModelCatalog` and a :class:`HealthProbe` over a folder of models."""

    def __init__(self, shelves: dict[str, Shelf], lanes: Lanes, *, loads: int) -> None:
        self._shelves = shelves
        self._lanes = lanes
        self._loads = loads

    @classmethod
    async def open(
        cls,
        root: Path,
        *,
        allow_pickle: bool = False,
        max_rows: int = DEFAULT_MAX_ROWS,
        limits: LaneLimits | None = None,
    ) -> Self:
        """Load and warm every version below ``root``, then serve. One that fails does not stop the others.

        Args:
            root: the folder of models; one that does not exist holds none.
            allow_pickle: whether joblib artifacts, which can run code, may be loaded.
            max_rows: the most rows of one request.
            limits: bounds of the queues.
        """
        limits = limits or LaneLimits()
        if not max_rows <= limits.max_share_rows <= limits.max_waiting_rows:
            raise ValueError("a request's rows must fit a share's queue, and a share's queue must fit the whole")
        lanes = Lanes(limits, prepare_thread=one_openmp_thread)
        loader = _Loader(ModelRepository(root), lanes, allow_pickle=allow_pickle, max_rows=max_rows)
        shelves = await asyncio.to_thread(loader.load_all)
        lanes.start()
        return cls(shelves, lanes, loads=loader.loads)

    @property
    def loads(self) -> int:
        """How many artifacts have been loaded since the start: one per version, however many requests came."""
        return self._loads

    def resolve(self, reference: ModelRef) -> LoadedModel:
        """Return the version that a reference names: a version, an alias, or for a bare name the default.

        Raises:
            ModelNotFound: no such model, version or alias.
            ModelUnavailable: it exists and could not be loaded.
        """
        shelf = self._shelves.get(reference.name)
        if shelf is None:
            raise ModelNotFound
        return shelf.find(reference.selector)

    def list(self) -> tuple[ModelSummary, ...]:
        """Return every model, by name."""
        return tuple(
            ModelSummary(
                name=name,
                versions=tuple(loaded.info for loaded in shelf.versions.values()),
                aliases={alias: main_version(targets) for alias, targets in shelf.aliases.items()},
                default_version=shelf.default_version(),
                failed=dict(shelf.failed),
            )
            for name, shelf in self._shelves.items()
        )

    async def check(self) -> tuple[ResourceHealth, ...]:
        """One line per model: down while one of its calls is stuck, degraded while something of it cannot serve."""
        stuck = self._lanes.stuck_models()
        lines = [self._health(name, shelf, stuck) for name, shelf in self._shelves.items()]
        if not self._lanes.is_serving():
            lines.append(ResourceHealth(name="models", status=HealthStatus.DOWN, detail="takes no predictions"))
        return tuple(lines)

    async def aclose(self) -> None:
        """Refuse new rows, finish what is queued, stop the worker; within a bound."""
        await self._lanes.aclose()

    def _health(self, name: str, shelf: Shelf, stuck: frozenset[str]) -> ResourceHealth:
        line = f"model:{name}"
        if any(loaded.lane_name in stuck for loaded in shelf.versions.values()):
            return ResourceHealth(name=line, status=HealthStatus.DOWN, detail="a prediction does not return")
        faults = shelf.faults()
        status = HealthStatus.DEGRADED if faults else HealthStatus.OK
        return ResourceHealth(name=line, status=status, detail="; ".join(faults))


class _Loader:
    """Loads a whole folder, counting."""

    def __init__(self, repository: ModelRepository, lanes: Lanes, *, allow_pickle: bool, max_rows: int) -> None:
        self._repository = repository
        self._lanes = lanes
        self._allow_pickle = allow_pickle
        self._max_rows = max_rows
        self.loads = 0

    def load_all(self) -> dict[str, Shelf]:
        shelves = {name: self._load_shelf(name) for name in self._repository.names()}
        return {name: shelf for name, shelf in shelves.items() if shelf.versions or shelf.failed}

    def _load_shelf(self, name: str) -> Shelf:
        versions: dict[str, LoadedModel] = {}
        failed: dict[str, str] = {}
        for version in self._repository.versions(name):
            try:
                versions[version] = load_model(
                    self._repository,
                    name,
                    version,
                    self._lanes,
                    allow_pickle=self._allow_pickle,
                    max_rows=self._max_rows,
                )
                self.loads += 1
            except ModelRefused as refused:
                logger.warning("model %s version %s is not served: %s", name, version, refused.reason)
                failed[version] = refused.reason
        try:
            return Shelf(versions=versions, failed=failed, aliases=self._repository.aliases(name))
        except ModelRefused as refused:
            logger.warning("model %s: %s", name, refused.reason)
            return Shelf(versions=versions, failed=failed, aliases_fault=refused.reason)
