"""The folder changes while models are served: no restart, no gap, nothing lost to a bad version, memory given back."""

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import orjson
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from backend.domain.errors import ModelNotFound, ModelUnavailable
from backend.domain.health import HealthStatus
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService, register
from backend.model_service.aliases import WeightedVersion
from backend.model_service.repository import ModelRepository
from backend.model_service.served import LoadedModel

pytestmark = pytest.mark.anyio

ROW = [5.1, 3.5, 1.4, 0.2]


class Noted(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Notes the rows it is given, on a stage of the test's own; while the gate is shut it stands there."""

    seen: ClassVar[list[list[float]]] = []
    entered = threading.Event()
    gate = threading.Event()

    def fit(self, data: Any, truth: Any) -> Self:
        self.classes_ = np.unique(truth)
        self.n_features_in_ = 4
        return self

    def predict(self, data: Any) -> Any:
        Noted.seen.extend(np.asarray(data).tolist())
        Noted.entered.set()
        assert Noted.gate.wait(30)
        return np.full(len(data), "setosa")


@asynccontextmanager
async def serving(root: Path, *, allow_pickle: bool = False) -> AsyncIterator[ModelService]:
    service = await ModelService.open(root, allow_pickle=allow_pickle)
    try:
        yield service
    finally:
        await service.aclose()


def resolve(service: ModelService, text: str) -> LoadedModel:
    return service.resolve(ModelRef.parse(text))


async def label(model: LoadedModel) -> str:
    answers = await model.run(model.encode([ROW]), [0], OutputOptions(), share="a")
    return str(orjson.loads(answers[0])["label"])


def copy_version(root: Path, source: str, target: str) -> None:
    """Publish a copy as another version, in one step."""
    staging = root / "iris" / ".copy"
    shutil.copytree(root / "iris" / source, staging)
    manifest = orjson.loads((staging / "manifest.json").read_bytes()) | {"version": target}
    (staging / "manifest.json").write_bytes(orjson.dumps(manifest))
    staging.rename(root / "iris" / target)


async def test_a_new_version_and_a_new_model_appear(models: Path) -> None:
    async with serving(models) as service:
        assert resolve(service, "iris").info.version == "2"
        copy_version(models, "1", "3")
        shutil.copytree(models / "forest", models / "woods")
        manifest = models / "woods" / "1" / "manifest.json"
        manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | {"name": "woods"}))
        await service.refresh()
        assert resolve(service, "iris").info.version == "3"
        assert await label(resolve(service, "woods")) == "setosa"
        assert service.loads == 5  # the three of the start stayed as they were


async def test_what_has_not_changed_is_not_loaded_again(models: Path) -> None:
    async with serving(models) as service:
        before = resolve(service, "iris")
        await service.refresh()
        assert resolve(service, "iris") is before
        assert service.loads == 3


async def test_an_alias_moves(models: Path) -> None:
    async with serving(models) as service:
        with pytest.raises(ModelNotFound):
            resolve(service, "iris@beta")
        ModelRepository(models).set_alias("iris", "beta", [WeightedVersion("2", 1)])
        ModelRepository(models).set_alias("iris", "stable", [WeightedVersion("1", 1)])
        await service.refresh()
        assert resolve(service, "iris@beta").info.version == "2"
        assert resolve(service, "iris").info.version == "1"


async def test_callers_are_answered_while_versions_change(models: Path) -> None:
    async with serving(models) as service:
        answered = 0
        changing = True

        async def ask() -> None:
            nonlocal answered
            while changing:
                assert await label(resolve(service, "iris")) == "setosa"
                answered += 1
                await asyncio.sleep(0)

        callers = [asyncio.create_task(ask()) for _ in range(4)]
        for version in ("3", "4", "5"):
            copy_version(models, "2", version)
            await service.refresh()
            shutil.rmtree(models / "iris" / version)
            await service.refresh()
        changing = False
        await asyncio.gather(*callers)
        assert answered > 10


async def test_a_version_is_warm_on_all_its_sample_rows_before_it_takes_traffic(
    models: Path, iris_sample: Path
) -> None:
    async with serving(models, allow_pickle=True) as service:
        Noted.gate.set()
        noted = Noted().fit(None, ["setosa", "versicolor", "virginica"])
        registered = register(models, noted, name="iris", sample=iris_sample, target="species", allow_pickle=True)
        Noted.gate.clear()
        Noted.entered.clear()
        Noted.seen.clear()
        refreshing = asyncio.create_task(service.refresh())
        assert await asyncio.to_thread(Noted.entered.wait, 30)
        # It is loaded, and stands in its warm-up: callers are answered by the one before.
        for _ in range(20):
            assert resolve(service, "iris").info.version == "2"
            assert await label(resolve(service, "iris")) == "setosa"
        assert not refreshing.done()
        Noted.gate.set()
        await refreshing
        assert resolve(service, "iris").info.version == "3"
        samples = [list(row) for row in registered.manifest.sample_rows]
        assert len(samples) == 5
        assert all(row in Noted.seen for row in samples)


async def test_a_bad_version_does_not_replace_the_one_that_serves(models: Path) -> None:
    async with serving(models) as service:
        before = resolve(service, "iris@2")
        artifact = models / "iris" / "2" / "model.skops"
        artifact.write_bytes(artifact.read_bytes()[:-1])
        copy_version(models, "1", "3")
        (models / "iris" / "3" / "model.skops").write_bytes(b"")
        await service.refresh()
        assert resolve(service, "iris@2") is before
        assert resolve(service, "iris") is before
        assert await label(before) == "setosa"
        with pytest.raises(ModelUnavailable):
            resolve(service, "iris@3")
        summary = next(each for each in service.list() if each.name == "iris")
        assert set(summary.failed) == {"2", "3"}
        health = {line.name: line.status for line in await service.check()}
        assert health == {"model:forest": HealthStatus.OK, "model:iris": HealthStatus.DEGRADED}
        loads = service.loads
        await service.refresh()  # and it is not tried again until it changes
        assert service.loads == loads
        assert set(next(each for each in service.list() if each.name == "iris").failed) == {"2", "3"}


async def test_a_version_that_is_repaired_is_served(models: Path) -> None:
    artifact = models / "iris" / "2" / "model.skops"
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:100])
    async with serving(models) as service:
        with pytest.raises(ModelUnavailable):
            resolve(service, "iris@2")
        artifact.write_bytes(whole)
        await service.refresh()
        assert await label(resolve(service, "iris@2")) == "setosa"
        assert (await service.check())[1].status is HealthStatus.OK


async def test_damaged_aliases_keep_the_ones_before(models: Path) -> None:
    ModelRepository(models).set_alias("iris", "stable", [WeightedVersion("1", 1)])
    async with serving(models) as service:
        (models / "iris" / "aliases.json").write_text("{")
        await service.refresh()
        assert resolve(service, "iris").info.version == "1"
        assert (await service.check())[1].status is HealthStatus.DEGRADED


async def test_a_folder_that_disappears_takes_no_model_with_it(models: Path) -> None:
    async with serving(models) as service:
        models.rename(models.with_name("away"))
        await service.refresh()
        assert await label(resolve(service, "iris")) == "setosa"
        assert {line.name: line.status for line in await service.check()}["models"] is HealthStatus.DEGRADED
        models.with_name("away").rename(models)
        await service.refresh()
        assert [line.name for line in await service.check()] == ["model:forest", "model:iris"]
        assert service.loads == 3


async def test_a_removed_version_is_gone_and_its_memory_is_free(models: Path) -> None:
    async with serving(models) as service:
        model = resolve(service, "iris@2")
        rows = model.encode([ROW] * 20)  # too many to be computed on the event loop, so there is a lane
        await model.run(rows, range(20), OutputOptions(), share="a")
        weak = weakref.ref(model)
        shutil.rmtree(models / "iris" / "2")
        await service.refresh()
        with pytest.raises(ModelNotFound):
            resolve(service, "iris@2")
        # Who holds it is still answered, and leaves nothing behind.
        assert len(await model.run(rows, range(20), OutputOptions(), share="a")) == 20
        assert not service._lanes._lanes
        del model
        async with asyncio.timeout(30):
            # The thread that refreshed lets go of what was there before a moment after it has said so.
            while weak() is not None:
                gc.collect()
                await asyncio.sleep(0)


async def test_refreshes_at_once_load_once(models: Path) -> None:
    async with serving(models) as service:
        copy_version(models, "1", "3")
        await asyncio.gather(*(service.refresh() for _ in range(5)))
        assert service.loads == 4
