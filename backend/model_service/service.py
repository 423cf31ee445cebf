"""The shared model service: every model of a repository, loaded once and served to all callers of the process."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Self

from backend.domain.errors import ModelNotFound
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.models import ModelRef, ModelSummary
from backend.model_service.aliases import main_version
from backend.model_service.encoding import DEFAULT_MAX_ROWS
from backend.model_service.lane_limits import LaneLimits
from backend.model_service.lanes import Lanes
from backend.model_service.loading import Loader
from backend.model_service.meters import ShadowMeter, SilentMetrics
from backend.model_service.native_threads import one_native_thread
from backend.model_service.repository import ModelRepository, version_order
from backend.model_service.shadows import Shadow, ShadowWorker
from backend.model_service.shelf import Shelf
from backend.model_service.signatures import IsSigned
from backend.services.ports.metrics import Metrics
from backend.services.ports.model_files import ModelFiles

if TYPE_CHECKING:
    from backend.model_service.served import LoadedModel

logger = logging.getLogger(__name__)

NOTHING = (HealthStatus.DOWN, "nothing is loaded yet")


class ModelService:
    """A :class:`ModelCatalog` and a :class:`HealthProbe` over a folder of models."""

    def __init__(
        self, shelves: dict[str, Shelf], lanes: Lanes, loader: Loader, *, metrics: Metrics | None = None
    ) -> None:
        self._shelves = shelves
        self._lanes = lanes
        self._metrics = metrics or SilentMetrics()
        self._shadows = ShadowWorker(prepare_thread=one_native_thread)
        self._asked: set[asyncio.Task[None]] = set()
        self._loader = loader
        self._refreshing = asyncio.Lock()
        self._outage: str | None = None
        self._has_loaded = False
        self._cast_shadows()

    @classmethod
    async def open(
        cls,
        root: Path | ModelFiles,
        *,
        allow_pickle: bool = False,
        max_rows: int = DEFAULT_MAX_ROWS,
        limits: LaneLimits | None = None,
        is_signed: IsSigned | None = None,
        metrics: Metrics | None = None,
    ) -> Self:
        """Load and warm every version below ``root``, then serve. One that fails does not stop the others.

        A repository that does not answer serves nothing, and shows in the health, until a refresh finds it.

        Args:
            root: the folder of models, or another store of them; one that does not exist holds none.
            allow_pickle: whether joblib artifacts, which can run code, may be loaded.
            max_rows: the most rows of one request.
            limits: bounds of the queues.
            is_signed: checks a manifest's signature; without it, none is asked for.
            metrics: where each version is counted; without it, nowhere.
        """
        limits = limits or LaneLimits()
        if not max_rows <= limits.max_share_rows <= limits.max_waiting_rows:
            raise ValueError("a request's rows must fit a share's queue, and a share's queue must fit the whole")
        lanes = Lanes(limits, prepare_thread=one_native_thread)
        loader = Loader(
            ModelRepository(root, is_signed=is_signed),
            lanes,
            allow_pickle=allow_pickle,
            max_rows=max_rows,
            metrics=metrics,
        )
        service = cls({}, lanes, loader, metrics=metrics)
        await service.refresh()
        lanes.start()
        return service

    async def refresh(self) -> None:
        """Take over what has changed in the folder since; whoever composes the service calls it every few seconds.

        New versions are loaded and warmed off the event loop, and then replace the old ones all at once. A repository
        that cannot be read changes nothing.
        """
        async with self._refreshing:
            before = self._shelves
            try:
                self._shelves = await asyncio.to_thread(self._loader.load, before)
            except OSError as error:
                outage = _outage(error)
                if self._outage != outage:
                    logger.warning("the model repository cannot be read: %s", outage)
                self._outage = outage
                return
            self._outage = None
            self._has_loaded = True
        kept = {id(loaded) for shelf in self._shelves.values() for loaded in shelf.versions.values()}
        for shelf in before.values():
            for loaded in shelf.versions.values():
                if id(loaded) not in kept:
                    loaded.retire()
        self._cast_shadows()

    def refresh_soon(self) -> None:
        """Take over what has changed without waiting for the next turn: this process itself has changed it."""
        task = asyncio.create_task(self.refresh())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    @property
    def loads(self) -> int:
        """How many artifacts have been loaded since the start: one per version, however many requests came."""
        return self._loader.loads

    def resolve(self, reference: ModelRef, caller_label: str = "") -> "LoadedModel":
        """Return the version that a reference names: a version, an alias, or for a bare name the default.

        An alias that is shared between versions gives a caller the same one each time.

        Raises:
            ModelNotFound: no such model, version or alias.
            ModelUnavailable: it exists and could not be loaded.
        """
        shelf = self._shelves.get(reference.name)
        if shelf is None:
            raise ModelNotFound
        return shelf.find(reference.selector, caller_label)

    def list(self) -> tuple[ModelSummary, ...]:
        """Return every model, by name."""
        return tuple(
            ModelSummary(
                name=name,
                versions=tuple(loaded.info for loaded in shelf.versions.values()),
                aliases={alias: main_version(targets) for alias, targets in shelf.aliases.items()},
                targets={
                    alias: tuple([target.version for target in targets]) for alias, targets in shelf.aliases.items()
                },
                default_version=shelf.default_version(),
                failed=dict(shelf.failed),
                unloaded=tuple(sorted(shelf.unloaded, key=version_order, reverse=True)),
            )
            for name, shelf in self._shelves.items()
        )

    async def check(self) -> tuple[ResourceHealth, ...]:
        """One line per model: down while one of its calls is stuck, degraded while something of it cannot serve."""
        stuck = self._lanes.stuck_models()
        lines = [self._health(name, shelf, stuck) for name, shelf in self._shelves.items()]
        if not self._lanes.is_serving():
            lines.append(ResourceHealth(name="models", status=HealthStatus.DOWN, detail="takes no predictions"))
        elif self._outage is not None:
            status, serves = (HealthStatus.DEGRADED, "what was loaded before serves") if self._has_loaded else NOTHING
            detail = f"the repository cannot be read ({self._outage}); {serves}"
            lines.append(ResourceHealth(name="models", status=status, detail=detail))
        return tuple(lines)

    async def aclose(self) -> None:
        """Refuse new rows, finish what is queued, stop the worker; within a bound."""
        if self._asked:
            await asyncio.gather(*self._asked, return_exceptions=True)
        self._shadows.close()
        await self._lanes.aclose()

    def _cast_shadows(self) -> None:
        """Give each version of a model its model's shadow target, and say which runner is in use."""
        for name, shelf in self._shelves.items():
            target = shelf.shadow()
            for version, loaded in shelf.versions.items():
                loaded.count_runner()
                if target is None or loaded is target:
                    loaded.shadow = None
                elif loaded.shadow is None or loaded.shadow.target is not target:
                    label = f"{name}@{target.info.version}"
                    names = [feature.name for feature in loaded.info.inputs]
                    meter = ShadowMeter.of(self._metrics, model=name, version=version, shadow=target.info.version)
                    loaded.shadow = Shadow(target, names=names, label=label, meter=meter, worker=self._shadows)

    def _health(self, name: str, shelf: Shelf, stuck: frozenset[str]) -> ResourceHealth:
        line = f"model:{name}"
        if any(loaded.lane_name in stuck for loaded in shelf.versions.values()):
            return ResourceHealth(name=line, status=HealthStatus.DOWN, detail="a prediction does not return")
        faults = shelf.faults()
        faults += [
            f"version {version}: a prediction failed within the last minute"
            for version, loaded in shelf.versions.items()
            if loaded.failed_lately()
        ]
        status = HealthStatus.DEGRADED if faults else HealthStatus.OK
        return ResourceHealth(name=line, status=status, detail="; ".join(faults))


def _outage(error: OSError) -> str:
    """Say what is wrong in a few words that hold no path and no address."""
    if isinstance(error, PermissionError):
        return "access is refused"
    if isinstance(error, FileNotFoundError):
        return "there is none"
    return type(error.__cause__ or error).__name__
