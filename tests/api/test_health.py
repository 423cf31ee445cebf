"""Is it alive, can it serve, and if not, which resource is it: asked over HTTP."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import make_url

from backend import __version__
from tests.api.conftest import World, embedded_settings, running
from tests.api.test_predictions import DIABETES, problem
from tests.databases import postgres_cut_off, postgres_database
from tests.model_cache import cached_demo_models
from tests.server_process import Server
from tests.wire import Wire

pytestmark = pytest.mark.anyio

BOUND_S = 6.0
"""A probe waits no longer for a store: its own bound, with room for a loaded machine. Unbounded, these would hang."""


def lines(answer: Response) -> dict[str, str]:
    return {line["name"]: line["status"] for line in answer.json()["resources"]}


async def ready(world: World) -> Response:
    began = time.monotonic()
    answer = await world.client.get("/readyz")
    assert time.monotonic() - began < BOUND_S
    assert answer.headers["cache-control"] == "no-store"
    assert answer.status_code == (200 if answer.json()["status"] == "ready" else 503)
    return answer


async def test_it_is_alive_without_asking_anybody(world: World) -> None:
    answer = await world.client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_it_is_ready_with_one_line_a_resource(world: World) -> None:
    answer = await ready(world)
    assert answer.status_code == 200
    assert answer.json()["version"] == __version__
    admission = "redis" if world.shape == "server" else "admission"
    models = {f"model:{name}" for name in ("iris", "wine", "breast-cancer", "diabetes")}
    assert lines(answer).keys() >= {"database", "ledger", admission} | models
    assert set(lines(answer).values()) == {"ok"}


async def test_readiness_tells_no_address_path_or_secret(world: World) -> None:
    answer = await ready(world)
    for word in ("://", "127.0.0.1", "/tmp", "password", "secret", ".db", "postgres", "Traceback"):
        assert word not in answer.text


# A damaged model


@pytest.fixture(scope="module")
async def with_damage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """An application whose iris is truncated, whose wine has one byte flipped, and whose diabetes has no manifest."""
    folder = tmp_path_factory.mktemp("damaged")
    models = folder / "models"
    shutil.copytree(cached_demo_models(), models)

    def artifact(name: str) -> Path:
        [path] = (each for each in (models / name).rglob("*") if each.is_file() and each.suffix not in {".json", ""})
        return path

    artifact("iris").write_bytes(artifact("iris").read_bytes()[:1000])
    changed = bytearray(artifact("wine").read_bytes())
    changed[len(changed) // 2] ^= 1
    artifact("wine").write_bytes(bytes(changed))
    for manifest in (models / "diabetes").rglob("*.json"):
        manifest.write_text("{")
    async with running(embedded_settings(folder, models=models), "damaged") as world:
        yield world


async def test_a_damaged_model_is_out_with_its_reason_and_the_rest_is_ready(with_damage: World) -> None:
    answer = await ready(with_damage)
    assert answer.status_code == 200, "the rest serves"
    found = lines(answer)
    assert {found[f"model:{name}"] for name in ("iris", "wine", "diabetes")} == {"degraded"}
    assert found["model:breast-cancer"] == "ok"
    reasons = {line["name"]: line["detail"] for line in answer.json()["resources"]}
    assert all(reasons[f"model:{name}"] for name in ("iris", "wine", "diabetes"))
    assert "/" not in reasons["model:iris"]


async def test_503_model_unavailable_for_a_damaged_model_and_200_for_the_rest(with_damage: World) -> None:
    tenant = await with_damage.tenant()
    for reference in ("iris", "iris@1"):
        answer = await with_damage.predict(tenant.live, model=reference)
        assert problem(answer) == (503, "model-unavailable")
        assert int(answer.headers["retry-after"]) > 0
    assert problem(await with_damage.predict(tenant.live, [DIABETES], model="diabetes"))[0] == 503
    rows = [[17.0] + [1.0] * 29]
    assert (await with_damage.predict(tenant.live, rows, model="breast-cancer")).status_code == 200


async def test_a_damaged_version_is_listed_as_unavailable(with_damage: World) -> None:
    tenant = await with_damage.tenant()
    answer = await with_damage.client.get("/v1/models/iris", headers=tenant.live.headers)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["versions"], body["unavailable_versions"], body["default_version"]) == ([], ["1"], None)


# A dead or a silent database


@asynccontextmanager
async def on_database(folder: Path, **settings: Any) -> AsyncIterator[World]:
    async with running(embedded_settings(folder, **settings), "dying") as world:
        yield world


async def test_503_while_the_database_is_gone_and_200_when_it_is_back(postgres_url: str, tmp_path: Path) -> None:
    with postgres_database(postgres_url, is_migrated=True) as url:
        async with on_database(tmp_path, database_url=url) as world:
            tenant = await world.tenant()
            assert (await ready(world)).status_code == 200
            with postgres_cut_off(url):
                answer = await ready(world)
                assert (answer.status_code, answer.json()["status"]) == (503, "unready")
                assert lines(answer)["database"] == "down"
                refused = await world.client.get("/v1/usage/summary", headers=tenant.live.headers)
                assert problem(refused) == (503, "store-unavailable")
                assert int(refused.headers["retry-after"]) > 0
                assert "postgres" not in refused.text
                assert (await world.client.get("/livez")).status_code == 200
            assert (await ready(world)).status_code == 200
            answer = await world.client.get("/v1/usage/summary", headers=tenant.live.headers)
            assert answer.status_code == 200


async def test_503_within_the_bound_while_the_database_is_silent(postgres_url: str, tmp_path: Path) -> None:
    with postgres_database(postgres_url, is_migrated=True) as url:
        parsed = make_url(url)
        wire = Wire(parsed.host or "127.0.0.1", parsed.port or 5432)
        async with wire.open() as port:
            wired = parsed.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
            options: dict[str, Any] = {"database_url": wired, "migration_database_url": url, "database_timeout_s": 1.0}
            async with on_database(tmp_path, **options) as world:
                assert (await ready(world)).status_code == 200
                wire.go_silent()
                for answer in await asyncio.gather(ready(world), ready(world)):
                    assert answer.status_code == 503
                    assert lines(answer)["database"] == "down"
                assert (await world.client.get("/livez")).status_code == 200
                wire.go_on()
                async with asyncio.timeout(BOUND_S):
                    while (await ready(world)).status_code != 200:
                        await asyncio.sleep(0)


# Redis


async def test_l3_degraded_and_200_while_redis_is_gone_and_ok_when_it_is_back(
    start_private_redis: Callable[[], Server], tmp_path: Path
) -> None:
    server = start_private_redis()
    settings = embedded_settings(tmp_path, redis_url=server.url, redis_timeout_s=1.0)
    async with running(settings, "redisless") as world:
        free, pro = await world.tenant("free"), await world.tenant("pro")
        for tenant in (free, pro):
            assert (await world.predict(tenant.live)).status_code == 200
        server.kill()
        answer = await ready(world)
        assert (lines(answer)["redis"], answer.status_code) == ("degraded", 200)
        assert "127.0.0.1" not in answer.text
        refused = await world.predict(free.live)
        assert problem(refused) == (503, "enforcement-unavailable")
        assert int(refused.headers["retry-after"]) > 0
        served = await world.predict(pro.live)
        assert served.status_code == 200
        assert "x-quota-used" not in served.headers, "nobody can say"
        server.start()
        async with asyncio.timeout(BOUND_S):
            while lines(await ready(world))["redis"] != "ok" or (await world.predict(free.live)).status_code != 200:
                await asyncio.sleep(0)
        assert (await world.predict(pro.live)).headers["x-quota-used"] == "3"
