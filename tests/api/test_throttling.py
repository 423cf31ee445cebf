"""slowapi before the routes that ask for no credential, and unknown API keys, in both shapes."""

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from httpx import ASGITransport, AsyncClient, Response

from backend.adapters.crypto.passwords import Argon2Passwords
from backend.api.deps import get_key_directory, get_password_hasher
from backend.api.router import PUBLIC
from backend.api.throttling import Surface, Throttled
from backend.domain.api_keys import Environment, mint_key
from tests.api.conftest import (
    PASSWORD,
    World,
    a_new_address,
    calling_from,
    embedded_settings,
    running,
    server_stores,
)
from tests.api.test_predictions import problem
from tests.api.walk import routes_of

pytestmark = pytest.mark.anyio

LIMITS: dict[str, Any] = {"login_rate": "4/hour", "anonymous_rate": "3/hour", "unknown_key_rate": 5, "sign_up": True}


@pytest.fixture(scope="module")
async def embedded_strict_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    settings = embedded_settings(tmp_path_factory.mktemp("strict"), **LIMITS)
    async with running(settings, "strict-embedded") as world:
        yield world


@pytest.fixture(scope="module")
async def server_strict_world(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    settings = embedded_settings(
        tmp_path_factory.mktemp("strict"),
        **LIMITS,
        trusted_proxies="10.0.0.0/8",
        **server_stores(postgres_url, redis_url, "strict"),
    )
    async with running(settings, "strict-server") as world:
        yield world


@pytest.fixture(params=["embedded", "server"])
def strict_world(request: pytest.FixtureRequest) -> World:
    """An application with low limits, once in each shape."""
    found: World = request.getfixturevalue(f"{request.param}_strict_world")
    return found


BODIES: dict[str, dict[str, Any]] = {
    "/v1/auth/token": {"data": {"grant_type": "password", "username": "nobody@example.com", "password": PASSWORD}},
    "/v1/auth/revoke": {"data": {"token": "nonsense"}},
    "/v1/auth/register": {"json": {"email": "x@example.com", "password": "too short", "tenant_name": "x"}},
    "/v1/auth/confirm": {"json": {"token": "nonsense"}},
    "/v1/auth/forgot": {"json": {"email": "nobody@example.com"}},
    "/v1/auth/reset": {"json": {"token": "nonsense", "new_password": PASSWORD}},
    "/v1/invitations/accept": {"json": {"token": "nonsense"}},
}
OAUTH = {"/v1/auth/token", "/v1/auth/revoke"}
each_path = pytest.mark.parametrize("path", sorted(BODIES))


async def answers(client: AsyncClient, path: str, times: int, **headers: str) -> list[Response]:
    # Failed logins are counted by account too: each test has one of its own.
    form = {"username": f"{secrets.token_hex(8)}@example.com"} if path == "/v1/auth/token" else {}
    body: dict[str, Any] = {kind: {**content, **form} for kind, content in BODIES[path].items()}
    return [await client.post(path, headers=headers, **body) for _ in range(times)]


@each_path
async def test_an_address_is_let_through_so_often_and_then_told_when_to_come_back(
    strict_world: World, path: str
) -> None:
    limit = 4 if path in OAUTH else 3
    async with calling_from(strict_world, a_new_address()) as client:
        *passed, refused = await answers(client, path, limit + 1)
    assert 429 not in {answer.status_code for answer in passed}
    assert refused.status_code == 429
    assert 3500 <= int(refused.headers["retry-after"]) <= 3601
    if path in OAUTH:
        assert refused.json()["error"] == "slow_down"
        assert refused.headers["content-type"] == "application/json"
    else:
        assert problem(refused) == (429, "too-many-requests")
        assert refused.json()["retry_after"] == int(refused.headers["retry-after"])


@each_path
async def test_another_address_is_let_through(strict_world: World, path: str) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        assert (await answers(client, path, 6))[-1].status_code == 429
    async with calling_from(strict_world, a_new_address()) as client:
        assert (await answers(client, path, 1))[0].status_code != 429


async def test_each_route_is_counted_apart(strict_world: World) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        await answers(client, "/v1/auth/forgot", 4)
        assert (await answers(client, "/v1/auth/reset", 1))[0].status_code == 410


async def test_what_cannot_be_read_is_counted_too(strict_world: World) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        statuses = [(await client.post("/v1/auth/reset", json={})).status_code for _ in range(4)]
    assert statuses == [422, 422, 422, 429]


async def test_one_subscriber_cannot_change_the_address_at_will(strict_world: World) -> None:
    network = a_new_address().removesuffix("::1")
    statuses = []
    for host in range(4):
        async with calling_from(strict_world, f"{network}:{host}:1:2:3") as client:
            statuses.append((await answers(client, "/v1/auth/reset", 1))[0].status_code)
    assert statuses == [410, 410, 410, 429]


async def test_k9_a_forged_forwarding_header_opens_nothing(strict_world: World) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        for number in range(4):
            [answer] = await answers(client, "/v1/auth/reset", 1, **{"X-Forwarded-For": f"198.51.100.{number}"})
    assert answer.status_code == 429


async def test_behind_a_trusted_proxy_the_callers_own_address_counts(server_strict_world: World) -> None:
    first, second = a_new_address(), a_new_address()
    async with calling_from(server_strict_world, "10.0.0.7") as proxy:
        many = await answers(proxy, "/v1/auth/reset", 4, **{"X-Forwarded-For": f"9.9.9.9, {first}"})
        [other] = await answers(proxy, "/v1/auth/reset", 1, **{"X-Forwarded-For": f"9.9.9.9, {second}"})
    assert [answer.status_code for answer in many] == [410, 410, 410, 429]
    assert other.status_code == 410


async def test_two_applications_in_one_process_count_apart(embedded_strict_world: World, embedded_world: World) -> None:
    address = a_new_address()
    async with calling_from(embedded_strict_world, address) as client:
        assert (await answers(client, "/v1/auth/reset", 4))[-1].status_code == 429
    async with calling_from(embedded_world, address) as client:
        assert (await answers(client, "/v1/auth/reset", 1))[0].status_code == 410


def _routes(world: World) -> Iterator[tuple[APIRoute, list[Surface]]]:
    for route in routes_of(world.app):
        if isinstance(route, APIRoute):
            calls = [dependency.call for dependency in route.dependant.dependencies]
            yield route, [call.surface for call in calls if isinstance(call, Throttled)]


def test_every_public_post_is_counted_and_no_other_route_is(embedded_world: World) -> None:
    posts = {
        f"/v1{route.path}": surfaces for route, surfaces in _routes(embedded_world) if "POST" in (route.methods or ())
    }
    counted = {path: surfaces for path, surfaces in posts.items() if surfaces}
    public_posts = set(posts) & PUBLIC
    assert sum(len(surfaces) for _, surfaces in _routes(embedded_world)) == len(counted)
    assert set(counted) == public_posts == set(BODIES)
    assert sorted(surface for [surface] in counted.values()) == sorted(Surface)


# --------------------------------------------------------------------------------------------------- unknown keys


def an_unknown_key() -> dict[str, str]:
    return {"X-API-Key": mint_key(Environment.LIVE)[0]}


async def test_k8_unknown_keys_are_throttled_by_address(strict_world: World) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        statuses = [(await client.get("/v1/models", headers=an_unknown_key())).status_code for _ in range(6)]
        refused = await client.get("/v1/models", headers=an_unknown_key())
    assert statuses == [401] * 5 + [429]
    assert problem(refused) == (429, "too-many-requests")
    assert int(refused.headers["retry-after"]) >= 1


async def test_k8_predictions_with_unknown_keys_too(strict_world: World) -> None:
    async with calling_from(strict_world, a_new_address()) as client:
        statuses = [(await client.post("/v1/predict", json={}, headers=an_unknown_key())).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


async def test_k8_a_throttled_key_causes_no_look_at_the_database(strict_world: World) -> None:
    looked_up: list[str] = []
    directory = strict_world.resources.key_directory

    class Watched:
        """The application's own directory, with a list of what it was asked."""

        def __getattr__(self, name: str) -> Any:
            return getattr(directory, name)

        async def find(self, lookup_id: str) -> Any:
            looked_up.append(lookup_id)
            return await directory.find(lookup_id)

    strict_world.app.dependency_overrides[get_key_directory] = Watched
    try:
        async with calling_from(strict_world, a_new_address()) as client:
            for _ in range(20):
                await client.get("/v1/models", headers=an_unknown_key())
    finally:
        strict_world.app.dependency_overrides.clear()
    assert len(looked_up) <= 6


async def test_p3_a_login_that_no_room_is_left_for_is_told_to_come_back_whoever_it_is(world: World) -> None:
    tenant = await world.tenant()
    full = Argon2Passwords(most_asking=0)
    world.app.dependency_overrides[get_password_hasher] = lambda: full
    try:
        known = await world.token(username=tenant.owner_email, password=PASSWORD)
        unknown = await world.token(username="nobody@nowhere.example", password=PASSWORD)
    finally:
        del world.app.dependency_overrides[get_password_hasher]
        full.close()
    for answer in (known, unknown):
        assert problem(answer) == (503, "overloaded")
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["detail"] == known.json()["detail"]
    # It was no failed attempt, so nothing has to be waited for.
    await world.log_in(tenant.owner_email)


async def test_k8_a_known_key_gets_through_whoever_else_calls_from_its_address(strict_world: World) -> None:
    tenant = await strict_world.tenant()
    async with calling_from(strict_world, a_new_address()) as client:
        assert (await client.get("/v1/models", headers=tenant.live.headers)).status_code == 200
        for _ in range(8):
            await client.get("/v1/models", headers=an_unknown_key())
        assert (await client.get("/v1/models", headers=tenant.live.headers)).status_code == 200


async def test_k8_real_keys_are_not_counted_however_many_come(strict_world: World) -> None:
    tenant = await strict_world.tenant()
    async with calling_from(strict_world, a_new_address()) as client:
        for _ in range(12):
            key = await strict_world.key(tenant)
            assert (await client.get("/v1/models", headers=key.headers)).status_code == 200
        assert (await client.get("/v1/models", headers=an_unknown_key())).status_code == 401


async def test_k1_a_mistyped_key_is_not_even_counted(strict_world: World) -> None:
    mistyped = an_unknown_key()["X-API-Key"][:-1]
    async with calling_from(strict_world, a_new_address()) as client:
        for char in "0123456789":
            answer = await client.get("/v1/models", headers={"X-API-Key": mistyped + char})
            assert answer.status_code == 401


async def test_a_caller_without_an_address_is_counted_as_one(strict_world: World) -> None:
    transport = ASGITransport(app=strict_world.app, raise_app_exceptions=False, client=None)  # type: ignore[arg-type]
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        found = await answers(client, "/v1/auth/confirm", 4)
    assert found[-1].status_code == 429
