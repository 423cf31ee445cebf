"""Self sign-up, in both shapes: off unless the operator wants it, and the same answer for everybody."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from httpx import Response

from backend.domain.scopes import Role
from tests.api.conftest import PASSWORD, World, embedded_settings, running, server_stores
from tests.api.hashing import hashes_counted
from tests.api.mailbox import letters_to
from tests.api.test_predictions import pointers, problem
from tests.api.trails import actions

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def embedded_open_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    settings = embedded_settings(tmp_path_factory.mktemp("open"), sign_up=True, sign_up_plan="pro")
    async with running(settings, "open-embedded") as world:
        yield world


@pytest.fixture(scope="module")
async def server_open_world(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    settings = embedded_settings(
        tmp_path_factory.mktemp("open"),
        sign_up=True,
        sign_up_plan="pro",
        **server_stores(postgres_url, redis_url, "open"),
    )
    async with running(settings, "open-server") as world:
        yield world


@pytest.fixture(params=["embedded", "server"])
def open_world(request: pytest.FixtureRequest) -> World:
    """An application that lets strangers sign up, once in each shape."""
    found: World = request.getfixturevalue(f"{request.param}_open_world")
    found.move()
    return found


_numbers = iter(range(1, 10_000))


def a_stranger() -> str:
    return f"stranger{next(_numbers)}@elsewhere.example"


async def register(world: World, email: str, **body: Any) -> Response:
    content = {"email": email, "password": PASSWORD, "tenant_name": "Café Über GmbH", **body}
    return await world.client.post("/v1/auth/register", json=content)


async def confirm(world: World, token: str) -> Response:
    return await world.client.post("/v1/auth/confirm", json={"token": token})


async def test_where_sign_up_is_off_there_is_none(world: World) -> None:
    assert problem(await register(world, a_stranger())) == (404, "not-found")
    assert problem(await confirm(world, "fm_" + "A" * 43)) == (404, "not-found")


async def test_a_stranger_signs_up_and_owns_a_tenant(open_world: World) -> None:
    world, email = open_world, a_stranger()
    assert (await register(world, email.upper())).status_code == 202
    assert (await world.token(username=email, password=PASSWORD)).status_code == 400
    [letter] = await letters_to(world, email)
    assert letter.link == f"{world.resources.settings.public_url}/confirm"
    answer = await confirm(world, letter.token)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tenant_name"] == "Café Über GmbH"
    assert answer.json()["tenant_slug"].startswith("cafe-uber-gmbh")
    owner = await world.log_in(email)
    me = (await world.client.get("/v1/me", headers=owner)).json()
    assert (me["email"], me["role"], me["tenant"]["tenant_id"]) == (email, "owner", answer.json()["tenant_id"])
    assert (await world.client.get("/v1/tenant", headers=owner)).json()["plan"] == "pro"
    assert await actions(world, answer.json()["tenant_id"]) == ["tenant.created", "session.started"]
    key = await world.client.post("/v1/api-keys", json={"name": "first", "environment": "live"}, headers=owner)
    assert key.status_code == 201


async def test_two_tenants_of_one_name_have_two_slugs(open_world: World) -> None:
    slugs = set()
    for _ in range(2):
        email = a_stranger()
        await register(open_world, email)
        [letter] = await letters_to(open_world, email)
        slugs.add((await confirm(open_world, letter.token)).json()["tenant_slug"])
    assert len(slugs) == 2


async def test_p5_known_and_unknown_addresses_are_answered_the_same(open_world: World) -> None:
    world = open_world
    known = await world.member(await world.tenant(), Role.VIEWER)
    unknown = a_stranger()
    answers = [await register(world, email) for email in (known, unknown)]
    own = {"x-request-id", "date"}
    first, second = (
        (answer.status_code, answer.content, [pair for pair in answer.headers.items() if pair[0] not in own])
        for answer in answers
    )
    assert first == second
    assert first[0] == 202
    [notice], [letter] = await letters_to(world, known), await letters_to(world, unknown)
    assert "already" in notice.subject
    assert "fm_" not in notice.text
    assert letter.token


async def test_p5_both_take_the_same_work(open_world: World) -> None:
    world = open_world
    known = await world.member(await world.tenant(), Role.VIEWER)
    work = []
    for email in (known, a_stranger()):
        with hashes_counted(world) as hashes:
            assert (await register(world, email)).status_code == 202
        work.append(hashes.asked)
        await world.resources.outbox.settled()
    assert work == [["hash"], ["hash"]]


async def test_p5_a_known_account_is_left_as_it_is(open_world: World) -> None:
    world = open_world
    known = await world.member(await world.tenant(), Role.VIEWER)
    await register(world, known, password="somebody elses long passphrase")
    assert (await world.token(username=known, password=PASSWORD)).status_code == 200


async def test_p7_a_confirmation_counts_once_and_uses_up_the_others(open_world: World) -> None:
    world, email = open_world, a_stranger()
    for _ in range(2):
        await register(world, email)
    first, second = await letters_to(world, email)
    assert (await confirm(world, first.token)).status_code == 200
    for letter in (first, second):
        assert problem(await confirm(world, letter.token)) == (410, "link-expired")


async def test_p7_a_reset_token_confirms_nothing(open_world: World) -> None:
    world = open_world
    known = await world.member(await world.tenant(), Role.VIEWER)
    await world.client.post("/v1/auth/forgot", json={"email": known})
    [letter] = await letters_to(world, known)
    assert problem(await confirm(world, letter.token)) == (410, "link-expired")


@pytest.mark.parametrize("password", ["too short", "passwordpassword", "forecourt-forecourt"])
async def test_p1_a_weak_password_is_refused(open_world: World, password: str) -> None:
    email = a_stranger()
    answer = await register(open_world, email, password=password)
    assert problem(answer) == (422, "weak-password")
    assert pointers(answer) == ["/password"]
    assert await letters_to(open_world, email) == []


@pytest.mark.parametrize(
    "body",
    [{"email": "nobody"}, {"tenant_name": ""}, {"tenant_name": "a\nb"}, {"role": "operator"}, {"plan": "enterprise"}],
)
async def test_a4_a_body_that_is_no_sign_up_is_refused(open_world: World, body: dict[str, Any]) -> None:
    content = {"email": a_stranger(), "password": PASSWORD, "tenant_name": "Acme", **body}
    answer = await open_world.client.post("/v1/auth/register", json=content)
    assert problem(answer) == (422, "validation-failed")


async def test_what_a_stranger_calls_the_tenant_is_not_mailed_to_anybody(open_world: World) -> None:
    email = a_stranger()
    await register(open_world, email, tenant_name="Win money at https evil example")
    [letter] = await letters_to(open_world, email)
    assert "evil" not in letter.text + letter.subject
