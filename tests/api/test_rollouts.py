"""Rolling out over HTTP: the operator alone, every change recorded, in effect without a restart."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from backend.domain.scopes import PlatformRole, Role
from tests.api.conftest import (
    PASSWORD,
    World,
    a_new_number,
    embedded_settings,
    fresh_database,
    own_models,
    running,
)
from tests.api.test_predictions import problem
from tests.redis_client import fresh_redis

pytestmark = pytest.mark.anyio

BASE = "/v1/admin/models/iris"
BOUND_S = 30.0


def two_versions(folder: Path) -> Path:
    """The demo models, with iris in a second version."""
    models = own_models(folder, ("iris", "wine"))
    (models / "iris" / "2").mkdir()
    for file in (models / "iris" / "1").iterdir():
        data = file.read_bytes()
        if file.name == "manifest.json":
            data = json.dumps(json.loads(data) | {"version": "2"}).encode()
        (models / "iris" / "2" / file.name).write_bytes(data)
    return models


def on_two_versions(request: pytest.FixtureRequest, folder: Path, name: str) -> AbstractAsyncContextManager[World]:
    """Run an application of the shape that is asked for, on models of its own."""
    options: dict[str, Any] = {"models": two_versions(folder)}
    if request.param == "server":
        options |= {
            "database_url": fresh_database(request.getfixturevalue("postgres_url"), name),
            "redis_url": fresh_redis(request.getfixturevalue("redis_url")),
            "redis_timeout_s": 5.0,
        }
    return running(embedded_settings(folder, **options), f"{name}-{request.param}")


@pytest.fixture(params=["embedded", "server"])
async def rolling(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """An application whose models a test may change."""
    async with on_two_versions(request, tmp_path, "rollouts") as world:
        yield world


@pytest.fixture(scope="module", params=["embedded", "server"])
async def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """An application for tests of what changes nothing: each of them sees that nothing has changed."""
    async with on_two_versions(request, tmp_path_factory.mktemp("untouched"), "untouched") as world:
        yield world


async def operator_of(world: World, role: PlatformRole = PlatformRole.OPERATOR) -> dict[str, str]:
    email = f"{role}{a_new_number()}@{world.shape}.example"
    async with world._unit() as (tenants, _):
        await tenants.add_user(email=email, password=PASSWORD, platform_role=role)
    return await world.log_in(email)


def recorded(world: World) -> list[tuple[str, str, Any, Any]]:
    query = (
        "SELECT action, target_id, before, after FROM audit_log WHERE tenant_id = 'platform' "
        "AND action LIKE 'model%' ORDER BY sequence"
    )
    return [
        (action, target, *(json.loads(each) if isinstance(each, str) else each for each in states))
        for action, target, *states in world.rows(query)
    ]


async def until_served(world: World, reference: str, version: str | None) -> None:
    """Predict until a reference means a version, or none that serves."""
    key = (await world.tenant()).live
    with anyio.fail_after(BOUND_S):
        while True:
            answer = await world.predict(key, model=reference)
            if answer.json().get("version") == version:
                return
            await anyio.sleep(0)


async def test_an_alias_is_pointed_moved_shared_and_removed(rolling: World) -> None:
    operator = await operator_of(rolling)
    client = rolling.client

    async def put(alias: str, body: dict[str, Any]) -> Any:
        answer = await client.put(f"{BASE}/aliases/{alias}", json=body, headers=operator)
        assert answer.status_code == 200, answer.text
        return answer.json()

    described = rolling.app.openapi()
    assert await put("stable", {"target": "2"}) == {"model": "iris", "alias": "stable", "targets": {"2": 1}}
    await until_served(rolling, "iris", "2")
    assert rolling.app.openapi() is not described
    await put("stable", {"target": "2"})
    await put("canary", {"targets": {"1": 95, "2": 5}})
    await put("shadow", {"target": "1"})
    listed = (await client.get(f"{BASE}/aliases", headers=operator)).json()
    assert {each["alias"]: each["targets"] for each in listed["data"]} == {
        "stable": {"2": 1},
        "canary": {"1": 95, "2": 5},
        "shadow": {"1": 1},
    }
    assert (await client.delete(f"{BASE}/aliases/stable", headers=operator)).status_code == 204
    assert problem(await client.delete(f"{BASE}/aliases/stable", headers=operator)) == (404, "model-not-found")
    assert recorded(rolling) == [
        ("model-alias.set", "iris@stable", {"1": 1}, {"2": 1}),
        ("model-alias.set", "iris@canary", {}, {"1": 95, "2": 5}),
        ("model-alias.set", "iris@shadow", {}, {"1": 1}),
        ("model-alias.removed", "iris@stable", {"2": 1}, {}),
    ]


async def test_a_question_that_is_asked_again_and_again_goes_to_the_version_of_the_moment(rolling: World) -> None:
    operator, tenant = await operator_of(rolling), await rolling.tenant()
    for version in ("1", "2", "1"):
        answer = await rolling.client.put(f"{BASE}/aliases/stable", json={"target": version}, headers=operator)
        assert answer.status_code == 200, answer.text
        await until_served(rolling, "iris@stable", version)
        found = [(await rolling.predict(tenant.live, model="iris@stable")).json() for _ in range(5)]
        assert {each["version"] for each in found} == {version}
        assert found[-1]["usage"]["cached_units"] == 1


async def test_a_version_is_unloaded_and_loaded_again(rolling: World) -> None:
    operator = await operator_of(rolling)
    client, tenant = rolling.client, await rolling.tenant()
    refused = await client.post(f"{BASE}/versions/1/unload", headers=operator)
    assert problem(refused) == (409, "version-in-use"), "stable points at it"
    for _ in range(2):
        answer = await client.post(f"{BASE}/versions/2/unload", headers=operator)
        assert (answer.status_code, answer.json()) == (200, {"model": "iris", "version": "2", "loaded": False})
    await until_served(rolling, "iris@2", None)
    answer = await rolling.predict(tenant.live, model="iris@2")
    assert problem(answer) == (503, "model-unavailable")
    assert (await rolling.predict(tenant.live, model="iris")).json()["version"] == "1"
    model = (await client.get("/v1/models/iris", headers=operator)).json()
    assert (model["unloaded_versions"], model["unavailable_versions"]) == (["2"], [])
    assert [each["version"] for each in model["versions"]] == ["1"]
    ready = await client.get("/readyz")
    assert {line["name"]: line["status"] for line in ready.json()["resources"]}["model:iris"] == "ok"
    assert (await client.post(f"{BASE}/versions/2/load", headers=operator)).json()["loaded"] is True
    await until_served(rolling, "iris@2", "2")
    assert recorded(rolling) == [("model.unloaded", "iris@2", {}, {}), ("model.loaded", "iris@2", {}, {})]


@pytest.mark.parametrize(
    ("path", "body", "status", "pointer"),
    [
        ("iris/aliases/stable", {}, 422, None),
        ("iris/aliases/stable", {"target": "1", "targets": {"1": 1}}, 422, None),
        ("iris/aliases/stable", {"target": "9"}, 422, "/targets"),
        ("iris/aliases/stable", {"target": 1}, 422, "/target"),
        ("iris/aliases/stable", {"targets": {"1": 0}}, 422, "/targets/1"),
        ("iris/aliases/stable", {"targets": {"1": 1.5}}, 422, "/targets/1"),
        ("iris/aliases/stable", {"targets": {}}, 422, "/targets"),
        ("iris/aliases/stable", {"target": "../1"}, 422, "/target"),
        ("iris/aliases/stable", {"target": "1", "weight": 3}, 422, ""),
        ("iris/aliases/7", {"target": "1"}, 422, "/path/alias"),
        ("iris/aliases/shadow", {"targets": {"1": 1, "2": 1}}, 422, "/targets"),
        ("nothing/aliases/stable", {"target": "1"}, 404, None),
    ],
)
async def test_what_cannot_be_is_refused_with_its_place_and_changes_nothing(
    untouched: World, path: str, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    operator = await operator_of(untouched)
    answer = await untouched.client.put(f"/v1/admin/models/{path}", json=body, headers=operator)
    assert answer.status_code == status, answer.text
    if pointer is not None:
        assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]
    assert recorded(untouched) == []


async def test_404_for_versions_and_models_that_there_are_not(untouched: World) -> None:
    operator = await operator_of(untouched)
    for path in ("iris/versions/9", "nothing/versions/1", "iris/versions/..%2F1"):
        for what in ("load", "unload"):
            answer = await untouched.client.post(f"/v1/admin/models/{path}/{what}", headers=operator)
            assert problem(answer)[0] == 404, answer.text
    assert problem(await untouched.client.get("/v1/admin/models/nothing/aliases", headers=operator))[0] == 404
    assert recorded(untouched) == []


async def test_nobody_of_a_tenant_and_no_other_platform_role_rolls_out(untouched: World) -> None:
    tenant = await untouched.tenant()
    callers = [
        tenant.live.headers,
        await untouched.log_in(tenant.owner_email),
        await untouched.log_in(await untouched.member(tenant, Role.ADMIN)),
        await operator_of(untouched, PlatformRole.BILLING_READER),
    ]
    for headers in callers:
        for method, path in (
            ("PUT", "aliases/stable"), ("DELETE", "aliases/stable"), ("GET", "aliases"),
            ("POST", "versions/2/unload"), ("POST", "versions/2/load"),
        ):  # fmt: skip
            answer = await untouched.client.request(method, f"{BASE}/{path}", json={"target": "2"}, headers=headers)
            assert problem(answer) == (403, "insufficient-scope"), path
    assert recorded(untouched) == []
    await until_served(untouched, "iris", "1")


async def test_shadow_rows_are_neither_admitted_nor_billed(rolling: World) -> None:
    operator = await operator_of(rolling)
    await rolling.client.put(f"{BASE}/aliases/shadow", json={"target": "2"}, headers=operator)
    models: Any = rolling.resources.catalog
    with anyio.fail_after(BOUND_S):
        while models.list()[0].aliases.get("shadow") != "2":
            await anyio.sleep(0)
    tenant = await rolling.tenant()
    answer = await rolling.predict(tenant.live, [[5.0, 3.0, 1.0, 0.1], [6.0, 3.0, 5.0, 2.0]])
    assert answer.json()["version"] == "1"
    assert await anyio.to_thread.run_sync(models._shadows.settled, BOUND_S)
    metrics: Any = rolling.resources.metrics
    labels = {"model": "iris", "version": "1", "shadow": "2", "outcome": "agreed"}
    assert metrics.registry.get_sample_value("forecourt_model_shadow_rows_total", labels) == 2
    assert [(event["version"], event["units"]) for event in await rolling.events(tenant)] == [("1", 2)]


# What a key may use: names, versions and aliases, on predictions as on what is shown.

REFERENCES = ("iris", "iris@1", "iris@2", "iris@stable", "iris@canary", "wine")
PINS: dict[tuple[str, ...], tuple[set[str], set[str], set[str]]] = {
    # The list: what may be predicted with, which versions of iris are shown, and which of its aliases.
    ("iris",): ({*REFERENCES} - {"wine"}, {"1", "2"}, {"stable", "canary", "next"}),
    ("iris@1",): ({"iris", "iris@1", "iris@stable"}, {"1"}, {"stable"}),
    ("iris@2",): ({"iris@2"}, {"2"}, {"next"}),
    ("iris@stable",): ({"iris@stable"}, {"1"}, {"stable"}),
    ("iris@canary",): ({"iris@canary"}, {"1", "2"}, {"stable", "canary", "next"}),
    ("iris@1", "wine"): ({"iris", "iris@1", "iris@stable", "wine"}, {"1"}, {"stable"}),
    ("wine",): ({"wine"}, set(), set()),
    ("iris@9",): (set(), set(), set()),
}


async def put_aliases(world: World) -> None:
    """stable is 1, next is 2, and canary is shared between them."""
    operator = await operator_of(world)
    for alias, body in (("next", {"target": "2"}), ("canary", {"targets": {"1": 1, "2": 1}})):
        answer = await world.client.put(f"{BASE}/aliases/{alias}", json=body, headers=operator)
        assert answer.status_code == 200, answer.text
    models: Any = world.resources.catalog
    await models.refresh()


async def test_a_keys_allow_list_holds_names_versions_and_aliases(rolling: World) -> None:
    await put_aliases(rolling)
    tenant = await rolling.tenant()
    for pins, (allowed, versions, aliases) in PINS.items():
        key = await rolling.key(tenant, models=pins)
        for reference in REFERENCES:
            rows = None if reference != "wine" else [[1.0] * 13]
            answer = await rolling.predict(key, rows, model=reference)
            if reference == "iris@canary" and "iris@canary" not in allowed and answer.status_code == 200:
                # By its weight the caller is on the side of a version that is on the list.
                assert f"iris@{answer.json()['version']}" in pins
                continue
            expected = (200, None) if reference in allowed else (403, "model-not-allowed")
            assert (answer.status_code, answer.json().get("code")) == expected, (pins, reference)
        await require_shown(rolling, key.headers, versions, aliases, others={"wine"} & set(pins))


async def require_shown(
    world: World, headers: dict[str, str], versions: set[str], aliases: set[str], *, others: set[str]
) -> None:
    listed = (await world.client.get("/v1/models", headers=headers)).json()["data"]
    assert {model["name"] for model in listed} == ({"iris"} if versions else set()) | others
    read = await world.client.get("/v1/models/iris", headers=headers)
    if versions:
        assert {each["version"] for each in read.json()["versions"]} == versions
        assert set(read.json()["aliases"]) == aliases
        assert read.json() in listed
    else:
        assert problem(read) == (403, "model-not-allowed")
    for version in ("1", "2"):
        answer = await world.client.get(f"/v1/models/iris/versions/{version}", headers=headers)
        assert answer.status_code == (200 if version in versions else 403)


async def test_a_weighted_alias_on_the_list_gives_each_key_the_same_version_each_time(rolling: World) -> None:
    await put_aliases(rolling)
    tenant = await rolling.tenant()
    seen = set()
    for _ in range(12):
        key = await rolling.key(tenant, models=("iris@canary",))
        versions = {(await rolling.predict(key, model="iris@canary")).json()["version"] for _ in range(3)}
        assert len(versions) == 1
        seen |= versions
    assert seen == {"1", "2"}
