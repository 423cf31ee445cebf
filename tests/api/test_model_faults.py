"""A model that raises, hangs, or answers nonsense: its own caller is told, with the request id, and nobody else."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import anyio
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from backend.api.deps import get_catalog, get_health_probes
from backend.model_service import LaneLimits, ModelService, register
from tests.api.conftest import Key, World, embedded_settings, running
from tests.api.test_predictions import problem

pytestmark = pytest.mark.anyio

RAISES, NAN, TOO_FEW, OTHER_SHAPE, EXITS, HANGS = 13.0, 14.0, 15.0, 16.0, 17.0, 18.0
BOUND_S = 30.0
_entered, _released = threading.Event(), threading.Event()


class Moody(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Says whether a number is above zero, but for some numbers."""

    def fit(self, data: Any, truth: Any) -> Self:
        self.classes_ = np.array(["above", "below"])
        self.n_features_in_ = 1
        return self

    def predict_proba(self, data: Any) -> Any:
        column = np.asarray(data, dtype=np.float64)[:, 0]
        if RAISES in column:
            raise ValueError("secret of the model")
        if EXITS in column:
            raise SystemExit(1)
        if HANGS in column:
            _entered.set()
            _released.wait()
        chances = np.where(column[:, None] > 0, [0.9, 0.1], [0.2, 0.8])
        chances[column == NAN] = np.nan
        if OTHER_SHAPE in column:
            return np.column_stack([chances, chances])
        return chances[:-1] if TOO_FEW in column else chances

    def predict(self, data: Any) -> Any:
        return self.classes_[self.predict_proba(data).argmax(axis=1)]


@pytest.fixture(scope="module")
def moody_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moody")
    sample = folder / "sample.csv"
    pd.DataFrame({"x": [1.5, -1.5, 2.5]}).to_csv(sample, index=False)
    for name in ("moody", "well"):
        register(folder / "models", Moody().fit(None, None), name=name, sample=sample, allow_pickle=True)
    return folder / "models"


@asynccontextmanager
async def serving(folder: Path, models: Path, *, max_rows: int = 100, **limits: Any) -> AsyncIterator[World]:
    """An application over a model service with limits of its own."""
    service = await ModelService.open(models, allow_pickle=True, max_rows=max_rows, limits=LaneLimits(**limits))
    async with running(embedded_settings(folder, models=folder / "none"), "moody") as world:
        world.app.dependency_overrides[get_catalog] = lambda: service
        world.app.dependency_overrides[get_health_probes] = lambda: (service,)
        try:
            yield world
        finally:
            _released.set()
            await service.aclose()
            _released.clear()
            _entered.clear()


async def lines(world: World) -> dict[str, tuple[str, str]]:
    answer = await world.client.get("/readyz")
    return {line["name"]: (line["status"], line["detail"]) for line in answer.json()["resources"]}


async def ask(world: World, key: Key, *values: float, model: str = "moody") -> Any:
    body = {"model": model, "inputs": [[value] for value in values]}
    headers = key.headers | {"X-Request-Id": f"asked-{values[0]:g}".replace(".", "_"), "Cache-Control": "no-store"}
    return await world.client.post("/v1/predict", json=body, headers=headers)


@pytest.mark.parametrize(
    "fault", [RAISES, NAN, TOO_FEW, OTHER_SHAPE, EXITS], ids=["raises", "NaN", "too few", "another shape", "exits"]
)
async def test_503_for_the_caller_of_the_row_and_200_for_all_in_the_same_batch(
    tmp_path: Path, moody_models: Path, fault: float
) -> None:
    async with serving(tmp_path, moody_models) as world:
        one, other = (await world.tenant()).live, (await world.tenant()).live
        sent = [ask(world, one if at % 2 else other, float(at - 5), float(at)) for at in range(10)]
        answers = await asyncio.gather(ask(world, one, fault), *sent)
        assert problem(answers[0]) == (503, "model-unavailable")
        assert int(answers[0].headers["retry-after"]) > 0
        assert answers[0].json()["request_id"] == answers[0].headers["x-request-id"] == f"asked-{fault:g}"
        assert "secret" not in answers[0].text
        for at, answer in enumerate(answers[1:]):
            assert answer.status_code == 200, answer.text
            labels = [each["label"] for each in answer.json()["predictions"]]
            assert labels == ["above" if value > 0 else "below" for value in (at - 5, at)]
        found = await lines(world)
        assert found["model:moody"] == ("degraded", "version 1: a prediction failed within the last minute")
        assert found["model:well"] == ("ok", "")
        assert (await world.client.get("/readyz")).status_code == 200, "it serves everybody else"


async def test_nothing_is_charged_for_what_the_model_failed_on(tmp_path: Path, moody_models: Path) -> None:
    async with serving(tmp_path, moody_models) as world:
        tenant = await world.tenant()
        assert (await ask(world, tenant.live, RAISES, 1.0)).status_code == 503
        assert (await ask(world, tenant.live, 1.0)).status_code == 200
        assert [event["units"] for event in await world.events(tenant)] == [1]


async def test_one_that_hangs_is_given_up_others_serve_and_it_is_well_when_it_returns(
    tmp_path: Path, moody_models: Path
) -> None:
    async with serving(tmp_path, moody_models, stuck_after_s=1.0) as world:
        tenant = await world.tenant()
        hanging = await ask(world, tenant.live, HANGS)
        assert problem(hanging) == (503, "model-unavailable")
        assert hanging.json()["request_id"] == f"asked-{HANGS:g}"
        assert (await lines(world))["model:moody"] == ("down", "a prediction does not return")
        refused = await ask(world, tenant.live, 1.0)
        assert problem(refused) == (503, "overloaded"), "it is not queued behind what never returns"
        assert (await ask(world, tenant.live, 1.0, model="well")).status_code == 200
        _released.set()
        with anyio.fail_after(BOUND_S):
            while (await ask(world, tenant.live, 1.0)).status_code != 200:
                await anyio.sleep(0)
        assert (await lines(world))["model:moody"][0] != "down"


async def test_429_concurrency_exceeded_is_one_tenants_and_costs_nothing(tmp_path: Path, moody_models: Path) -> None:
    async with serving(tmp_path, moody_models, max_rows=3, max_share_rows=3) as world:
        one, other = await world.tenant(), await world.tenant()
        hanging = asyncio.create_task(ask(world, one.live, HANGS, 1.0))
        assert await asyncio.to_thread(_entered.wait, BOUND_S)
        refused = await ask(world, one.live, 1.5, 2.5)
        assert problem(refused) == (429, "concurrency-exceeded")
        assert refused.headers["retry-after"] == "1"
        theirs = asyncio.create_task(ask(world, other.live, 1.5))
        _released.set()
        assert [(await each).status_code for each in (hanging, theirs)] == [200, 200]
        assert [event["units"] for event in await world.events(one)] == [2]


async def test_a_caller_who_leaves_takes_nobody_along(tmp_path: Path, moody_models: Path) -> None:
    async with serving(tmp_path, moody_models) as world:
        tenant = await world.tenant()
        leaving = [asyncio.create_task(ask(world, tenant.live, float(at))) for at in range(5)]
        staying = [asyncio.create_task(ask(world, tenant.live, float(at + 100))) for at in range(5)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        for answer in await asyncio.gather(*staying):
            assert answer.status_code == 200
        assert all(isinstance(each, BaseException) for each in await asyncio.gather(*leaving, return_exceptions=True))
