"""Aliases and unloaded versions: written at once and alone, kept across starts, taken over by whoever serves."""

import asyncio
import gc
import multiprocessing
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from backend.domain.errors import ForecourtError, Invalid, ModelNotFound, ModelUnavailable, VersionInUse
from backend.domain.health import HealthStatus
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService
from backend.model_service.aliases import WeightedVersion
from backend.model_service.repository import ModelRepository
from backend.model_service.rollouts import FolderRollouts
from backend.services.ports import ModelRollouts

pytestmark = pytest.mark.anyio


@pytest.fixture
def rollouts(models: Path) -> ModelRollouts:
    return FolderRollouts(ModelRepository(models))


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[ModelService]:
    service = await ModelService.open(root)
    try:
        yield service
    finally:
        await service.aclose()


def version_of(service: ModelService, reference: str) -> str:
    return service.resolve(ModelRef.parse(reference)).info.version


async def test_an_alias_is_set_moved_weighted_and_removed(rollouts: ModelRollouts) -> None:
    assert await rollouts.aliases("iris") == {}
    await rollouts.set_alias("iris", "stable", {"1": 1})
    await rollouts.set_alias("iris", "canary", {"1": 95, "2": 5})
    await rollouts.set_alias("iris", "stable", {"2": 1})
    assert await rollouts.aliases("iris") == {"canary": {"1": 95, "2": 5}, "stable": {"2": 1}}
    await rollouts.remove_alias("iris", "canary")
    await rollouts.remove_alias("iris", "canary")
    assert await rollouts.aliases("iris") == {"stable": {"2": 1}}


@pytest.mark.parametrize(
    ("model", "alias", "targets", "error"),
    [
        ("nothing", "stable", {"1": 1}, ModelNotFound),
        ("../iris", "stable", {"1": 1}, ModelNotFound),
        ("iris", "7", {"1": 1}, Invalid),
        ("iris", "../x", {"1": 1}, Invalid),
        ("iris", "stable", {"9": 1}, Invalid),
        ("iris", "stable", {"..": 1}, Invalid),
        ("iris", "stable", {"1": 0}, Invalid),
        ("iris", "stable", {"1": 10**9}, Invalid),
        ("iris", "stable", {}, Invalid),
        ("iris", "shadow", {"1": 1, "2": 1}, Invalid),
    ],
)
async def test_a_wrong_alias_is_refused_and_changes_nothing(
    rollouts: ModelRollouts, models: Path, model: str, alias: str, targets: dict[str, int], error: type[ForecourtError]
) -> None:
    with pytest.raises(error):
        await rollouts.set_alias(model, alias, targets)
    assert not (models / "iris" / "aliases.json").exists()


async def test_an_unloaded_version_is_let_go_everywhere_and_after_a_restart(
    rollouts: ModelRollouts, models: Path
) -> None:
    async with serving(models) as one, serving(models) as other:
        assert version_of(one, "iris") == "2"
        gone = weakref.ref(one.resolve(ModelRef.parse("iris@2")))
        await rollouts.unload("iris", "2")
        assert await rollouts.unloaded("iris") == {"2"}
        for service in (one, other):
            await service.refresh()
            assert version_of(service, "iris") == "1", "nobody said stable, so the newest that is loaded"
            with pytest.raises(ModelUnavailable, match="not loaded at the moment"):
                service.resolve(ModelRef.parse("iris@2"))
            [_, line] = await service.check()
            assert line.status is HealthStatus.OK, "it is the operator's own wish"
            [_, summary] = service.list()
            assert (summary.unloaded, summary.failed, summary.default_version) == (("2",), {}, "1")
        async with asyncio.timeout(30):
            # The thread that refreshed lets go of what was there before a moment after it has said so.
            while gone() is not None:
                gc.collect()
                await asyncio.sleep(0)
    async with serving(models) as service:
        assert version_of(service, "iris") == "1"
        await rollouts.load("iris", "2")
        await service.refresh()
        assert version_of(service, "iris") == "2"
        assert service.loads == 3


async def test_a_version_that_is_being_used_is_answered_while_it_is_unloaded(
    rollouts: ModelRollouts, models: Path
) -> None:
    async with serving(models) as service:
        held = service.resolve(ModelRef.parse("iris@2"))
        rows = held.encode([[5.1, 3.5, 1.4, 0.2]] * 40)
        await rollouts.unload("iris", "2")
        await service.refresh()
        assert len(await held.run(rows, range(40), OutputOptions(), share="a")) == 40


async def test_a_version_under_an_alias_is_not_unloaded_and_an_unloaded_one_gets_no_alias(
    rollouts: ModelRollouts,
) -> None:
    await rollouts.set_alias("iris", "canary", {"1": 99, "2": 1})
    for version in ("1", "2"):
        with pytest.raises(VersionInUse):
            await rollouts.unload("iris", version)
    await rollouts.remove_alias("iris", "canary")
    await rollouts.unload("iris", "2")
    with pytest.raises(Invalid):
        await rollouts.set_alias("iris", "stable", {"2": 1})


async def test_a_model_whose_every_version_is_unloaded_is_unavailable_not_unknown(
    rollouts: ModelRollouts, models: Path
) -> None:
    await rollouts.unload("forest", "1")
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable):
            service.resolve(ModelRef.parse("forest"))
        assert service.list()[0].unloaded == ("1",)


@pytest.mark.parametrize("version", ["9", "..", "1/manifest.json"])
async def test_a_version_that_there_is_not_is_not_found(rollouts: ModelRollouts, version: str) -> None:
    for change in (rollouts.load, rollouts.unload):
        with pytest.raises(ModelNotFound):
            await change("iris", version)
        with pytest.raises(ModelNotFound):
            await change("nothing", "1")


@pytest.mark.parametrize("damage", ["{", "{}", '["a b"]', "[1]"])
async def test_a_damaged_list_of_unloaded_versions_lets_nothing_slip_in(
    rollouts: ModelRollouts, models: Path, damage: str
) -> None:
    await rollouts.unload("iris", "2")
    async with serving(models) as service:
        (models / "iris" / "unloaded.json").write_text(damage)
        await service.refresh()
        assert version_of(service, "iris") == "1", "as it was before"
        [_, line] = await service.check()
        assert (line.status, "unloaded versions" in line.detail) == (HealthStatus.DEGRADED, True)
        with pytest.raises(ModelUnavailable):
            await rollouts.unloaded("iris")
    async with serving(models) as service:
        for _ in range(2):
            with pytest.raises(ModelUnavailable):
                service.resolve(ModelRef.parse("iris"))
            await service.refresh()
        (models / "iris" / "unloaded.json").write_text('["2"]')
        await service.refresh()
        assert version_of(service, "iris") == "1"


async def test_a_folder_that_cannot_be_written_is_told(rollouts: ModelRollouts, models: Path) -> None:
    (models / "iris" / "aliases.json").mkdir()
    with pytest.raises(ModelUnavailable):
        await rollouts.set_alias("iris", "stable", {"1": 1})


async def test_this_process_is_told_of_its_own_change(models: Path) -> None:
    async with serving(models) as service:
        rollouts = FolderRollouts(ModelRepository(models), changed=service.refresh_soon)
        await rollouts.set_alias("iris", "stable", {"1": 1})
        with anyio.fail_after(20):
            while version_of(service, "iris") != "1":
                await asyncio.sleep(0)


def set_many(root: Path, name: str, count: int) -> None:
    repository = ModelRepository(root)
    for number in range(count):
        repository.set_alias("iris", f"{name}-{number}", [WeightedVersion("1", 1)])


async def test_changes_at_once_from_several_processes_and_threads_lose_nothing(models: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=set_many, args=(models, f"process{at}", 15)) for at in range(2)]
    for other in others:
        other.start()
    await asyncio.gather(*(asyncio.to_thread(set_many, models, f"thread{at}", 15) for at in range(3)))
    for other in others:
        await asyncio.to_thread(other.join)
        assert other.exitcode == 0
    assert len(ModelRepository(models).aliases("iris")) == 75
    left = {path.name for path in (models / "iris").iterdir()}
    assert left == {"1", "2", "aliases.json", ".lock"}
