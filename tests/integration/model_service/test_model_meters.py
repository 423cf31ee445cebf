"""What is counted of each version, on the registry that an application shows."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.domain.errors import ConcurrencyExceeded, ModelUnavailable, Overloaded
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import LaneLimits, ModelService
from backend.model_service.lane import LaneKey
from backend.model_service.manifest import Row
from backend.model_service.repository import ModelRepository

pytestmark = pytest.mark.anyio

WITH = OutputOptions()
BOUND_S = 30.0


class Counted:
    def __init__(self, service: ModelService, metrics: PrometheusMetrics) -> None:
        self.service = service
        self._metrics = metrics

    async def predict(self, reference: str, inputs: list[Any], share: str = "a") -> list[bytes]:
        model = self.service.resolve(ModelRef.parse(reference))
        rows = model.encode(inputs)
        return await model.run(rows, range(rows.count), WITH, share=share)

    def value(self, name: str, version: str = "1", model: str = "forest", **more: str) -> float | None:
        labels = {"model": model, "version": version, **more}
        return self._metrics.registry.get_sample_value(f"forecourt_model_{name}", labels)


@asynccontextmanager
async def counting(root: Path, **options: Any) -> AsyncIterator[Counted]:
    metrics = PrometheusMetrics()
    service = await ModelService.open(root, metrics=metrics, **options)
    try:
        yield Counted(service, metrics)
    finally:
        await service.aclose()


async def test_rows_time_and_batches_are_counted_by_version(models: Path, iris_rows: list[list[float]]) -> None:
    async with counting(models) as counted:
        await counted.predict("forest", iris_rows[:40])
        await counted.predict("forest", iris_rows[40:80])
        assert counted.value("rows_total") == 80
        assert counted.value("seconds_count") == 2
        assert 0 < (counted.value("seconds_sum") or 0) < 60
        assert counted.value("batch_rows_sum") == 80
        assert counted.value("batch_rows_count") == 2
        assert counted.value("queue_wait_seconds_count") == 2
        assert [counted.value(f"{name}_total") for name in ("errors", "shed", "single_flight_rows")] == [0, 0, 0]
        await counted.predict("iris@1", iris_rows[:1])
        assert counted.value("rows_total", model="iris") == 1
        assert counted.value("seconds_count", model="iris") == 1, "one row of a fast runner is computed on the loop"
        assert counted.value("batch_rows_count", model="iris") == 0


@asynccontextmanager
async def worker_busy(service: ModelService) -> AsyncIterator[None]:
    """Keep the worker at a gate, so that whatever is asked meanwhile is in the queue together."""
    gate, entered = threading.Event(), threading.Event()

    def stand(rows: Sequence[Row]) -> list[bytes]:
        entered.set()
        assert gate.wait(BOUND_S)
        return [b"{}"] * len(rows)

    key = LaneKey("gate@1", "digest", WITH)
    standing = asyncio.ensure_future(service._lanes.submit(key, stand, [(1.0,)], [b"1"], share="gate"))
    assert await asyncio.to_thread(entered.wait, BOUND_S)
    try:
        yield
    finally:
        gate.set()
        await standing


async def test_rows_that_wait_for_the_same_row_are_counted(models: Path, iris_rows: list[list[float]]) -> None:
    async with counting(models) as counted:
        async with worker_busy(counted.service):
            asked = [
                asyncio.ensure_future(counted.predict("forest", iris_rows[:40], share))
                for share in ("a", "a", "a", "b")
            ]
            await asyncio.sleep(0)
        await asyncio.gather(*asked)
        assert counted.value("single_flight_rows_total") == 80, "never those of another share"
        assert counted.value("batch_rows_sum") == 80
        assert counted.value("rows_total") == 160


async def test_what_is_shed_is_counted(models: Path, iris_rows: list[list[float]]) -> None:
    limits = LaneLimits(max_share_rows=40, max_waiting_rows=50)
    async with counting(models, max_rows=40, limits=limits) as counted:
        async with worker_busy(counted.service):
            sent = [
                asyncio.ensure_future(counted.predict("forest", iris_rows[at : at + 40], share))
                for at, share in ((0, "a"), (40, "a"), (80, "b"))
            ]
            await asyncio.sleep(0)
        found = await asyncio.gather(*sent, return_exceptions=True)
        assert [type(each) for each in found] == [list, ConcurrencyExceeded, Overloaded]
        assert counted.value("shed_total") == 2
    with pytest.raises(Overloaded):
        await counted.predict("iris@1", iris_rows[:1])
    assert counted.value("shed_total", model="iris") == 1


@pytest.mark.parametrize("count", [1, 60], ids=["on the loop", "in the lane"])
async def test_a_request_on_which_the_model_fails_is_counted(
    models: Path, iris_rows: list[list[float]], count: int
) -> None:
    async with counting(models) as counted:
        model = counted.service.resolve(ModelRef.parse("iris@1"))
        rows = model.encode(iris_rows[:count])
        rows.rows[0] = ("not a number", 1.0, 1.0, 1.0)  # past the encoder: a model that fails
        with pytest.raises(ModelUnavailable):
            await model.run(rows, range(count), WITH, share="a")
        assert counted.value("errors_total", model="iris") == 1
        assert counted.value("rows_total", model="iris") == 0


async def test_the_runner_in_use_is_told_and_follows_what_is_served(models: Path) -> None:
    runner = ModelRepository(models).manifest("iris", "1").runner.name
    async with counting(models) as counted:
        assert counted.value("runner_in_use", model="iris", runner=runner) == 1
        (models / "iris" / "1" / "manifest.json").touch()
        await counted.service.refresh()
        assert counted.value("runner_in_use", model="iris", runner=runner) == 1
        ModelRepository(models).remove("iris", "1")
        await counted.service.refresh()
        assert counted.value("runner_in_use", model="iris", runner=runner) == 0
