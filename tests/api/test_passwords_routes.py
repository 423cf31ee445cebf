"""Passwords, changed and reset over HTTP, in both shapes."""

import asyncio
import secrets
from typing import Any

import pytest
from httpx import AsyncClient, Response
from sqlalchemy import text

from backend.domain.audit import PLATFORM_CHAIN
from backend.domain.scopes import Role
from tests.api.conftest import PASSWORD, ClockedWorld, World
from tests.api.mailbox import letters_to
from tests.api.test_predictions import pointers, problem
from tests.api.test_sessions_routes import bearer, can_refresh, is_in, login
from tests.api.trails import actions

pytestmark = pytest.mark.anyio

NEW_PASSWORD = "nine green tortoises sing"


async def change(world: World, tokens: dict[str, Any], **body: str) -> Response:
    return await world.client.post("/v1/me/password", json=body, headers=bearer(tokens))


async def works(world: World, email: str, password: str) -> bool:
    answer = await world.token(username=email, password=password)
    assert answer.status_code in {200, 400}, answer.text
    return answer.status_code == 200


async def test_o6_a_new_password_ends_every_other_login(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.VIEWER)
    mine, other = await login(world, email), await login(world, email)
    before = len(await actions(world, tenant.id))
    answer = await change(world, mine, current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await is_in(world, mine)
    assert await can_refresh(world, mine)
    assert not await is_in(world, other)
    assert not await can_refresh(world, other)
    assert (await actions(world, tenant.id))[before:] == ["password.changed"]
    assert await works(world, email, NEW_PASSWORD)
    assert not await works(world, email, PASSWORD)


@pytest.mark.parametrize(
    "proof", [{}, {"current_password": "not the right one at all"}, {"current_password": "x" * 1000}]
)
async def test_a_stolen_token_changes_no_password(world: World, proof: dict[str, str]) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    before = await actions(world, tenant.id)
    answer = await change(world, tokens, new_password=NEW_PASSWORD, **proof)
    assert problem(answer) == (403, "reauthentication-required")
    assert await works(world, tenant.owner_email, PASSWORD)
    assert "password.changed" not in (await actions(world, tenant.id))[len(before) :]


async def test_p6_guessing_the_current_password_is_slowed_down(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    body = {"current_password": "not the right one at all", "new_password": NEW_PASSWORD}
    statuses = []
    for _ in range(7):
        answer = await stranger.post("/v1/me/password", json=body, headers=bearer(tokens))
        statuses.append(answer.status_code)
    assert statuses == [403] * 6 + [429]
    assert problem(answer) == (429, "too-many-requests")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("weak", ["too short", "passwordpassword", "x" * 129])
async def test_p1_a_weak_new_password_is_refused(world: World, weak: str) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    answer = await change(world, tokens, current_password=PASSWORD, new_password=weak)
    assert problem(answer) == (422, "weak-password")
    assert pointers(answer) == ["/new_password"]


async def test_p2_a_password_made_of_the_address_is_refused(world: World) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    answer = await change(world, tokens, current_password=PASSWORD, new_password=tenant.owner_email)
    assert problem(answer) == (422, "weak-password")


async def test_programs_have_no_password(world: World) -> None:
    tenant = await world.tenant()
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    answer = await world.client.post("/v1/me/password", json=body, headers=tenant.live.headers)
    assert problem(answer) == (403, "forbidden")


# ------------------------------------------------------------------------------------------------------ forgotten


async def forget(world: World, email: str, **headers: str) -> Response:
    return await world.client.post("/v1/auth/forgot", json={"email": email}, headers=headers)


async def reset(world: World, token: str, new: str = NEW_PASSWORD) -> Response:
    return await world.client.post("/v1/auth/reset", json={"token": token, "new_password": new})


async def test_o6_a_reset_sets_the_password_and_ends_every_login(world: World) -> None:
    tenant = await world.tenant()
    email = tenant.owner_email
    tokens = await login(world, email)
    assert (await forget(world, f" {email.upper()} ")).status_code == 202
    [letter] = await letters_to(world, email)
    before = len(await actions(world, PLATFORM_CHAIN))
    answer = await reset(world, letter.token)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not await is_in(world, tokens)
    assert not await can_refresh(world, tokens)
    assert await works(world, email, NEW_PASSWORD)
    assert not await works(world, email, PASSWORD)
    assert (await actions(world, PLATFORM_CHAIN))[before:].count("password.reset") == 1


async def test_p5_known_and_unknown_addresses_are_answered_the_same(world: World) -> None:
    tenant = await world.tenant()
    known, unknown = await forget(world, tenant.owner_email), await forget(world, f"nobody@{tenant.slug}.example")
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content) == (202, known.content)
    own = {"x-request-id", "date"}
    assert [pair for pair in known.headers.items() if pair[0] not in own] == [
        pair for pair in unknown.headers.items() if pair[0] not in own
    ]
    assert len(await letters_to(world, tenant.owner_email)) == 1
    assert await letters_to(world, f"nobody@{tenant.slug}.example") == []


async def test_p5_both_write_one_row_so_that_both_take_the_same_time(world: World) -> None:
    tenant = await world.tenant()
    emails = [tenant.owner_email, f"nobody@{tenant.slug}.example"]
    for email in emails:
        await forget(world, email)
    async with world.resources.store.session() as session:  # type: ignore[attr-defined]
        query = text("SELECT count(*) FROM mailed_tokens WHERE email = :email")
        counts = [await session.scalar(query, {"email": email}) for email in emails]
    assert counts == [1, 1]


async def test_p7_a_reset_token_is_hashed_single_use_and_names_the_configured_host(world: World) -> None:
    tenant = await world.tenant()
    await forget(world, tenant.owner_email, Host="evil.example")
    [letter] = await letters_to(world, tenant.owner_email)
    assert letter.link == f"{world.resources.settings.public_url}/reset-password"
    async with world.resources.store.session() as session:  # type: ignore[attr-defined]
        rows = (await session.execute(text("SELECT * FROM mailed_tokens"))).all()
    assert letter.token not in str(rows)
    assert (await reset(world, letter.token)).status_code == 204
    assert problem(await reset(world, letter.token, "another long passphrase")) == (410, "link-expired")


async def test_p7_of_many_at_once_one_sets_the_password(world: World) -> None:
    tenant = await world.tenant()
    await forget(world, tenant.owner_email)
    [letter] = await letters_to(world, tenant.owner_email)
    answers = await asyncio.gather(*[reset(world, letter.token, f"{NEW_PASSWORD} {n}") for n in range(5)])
    assert sorted(answer.status_code for answer in answers) == [204, 410, 410, 410, 410]


async def test_p7_a_reset_uses_up_every_other_link(world: World) -> None:
    tenant = await world.tenant()
    for _ in range(2):
        await forget(world, tenant.owner_email)
    first, second = await letters_to(world, tenant.owner_email)
    assert (await reset(world, second.token)).status_code == 204
    assert problem(await reset(world, first.token)) == (410, "link-expired")


async def test_p7_changing_the_password_uses_up_every_link(world: World) -> None:
    tenant = await world.tenant()
    await forget(world, tenant.owner_email)
    [letter] = await letters_to(world, tenant.owner_email)
    tokens = await login(world, tenant.owner_email)
    await change(world, tokens, current_password=PASSWORD, new_password=NEW_PASSWORD)
    assert problem(await reset(world, letter.token, "another long passphrase")) == (410, "link-expired")


async def test_p7_no_other_kind_of_token_resets_a_password(world: World) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    for token in (tokens["refresh_token"], tokens["access_token"][:200], "fm_" + "A" * 43, "nonsense"):
        assert problem(await reset(world, token)) == (410, "link-expired")


async def test_a_link_lasts_an_hour(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    await forget(world, tenant.owner_email)
    world.clock.advance(3600)
    await forget(world, tenant.owner_email)
    world.clock.advance(3599)
    first, second = await letters_to(world, tenant.owner_email)
    assert problem(await reset(world, first.token)) == (410, "link-expired")
    assert (await reset(world, second.token)).status_code == 204


async def test_a_weak_password_leaves_the_link_good(world: World) -> None:
    tenant = await world.tenant()
    await forget(world, tenant.owner_email)
    [letter] = await letters_to(world, tenant.owner_email)
    answer = await reset(world, letter.token, "too short")
    assert problem(answer) == (422, "weak-password")
    assert pointers(answer) == ["/new_password"]
    assert (await reset(world, letter.token)).status_code == 204


async def test_a9_a_disabled_user_gets_no_link_and_an_older_one_is_dead(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.VIEWER)
    await forget(world, email)
    async with world._unit() as (tenants, _):
        await tenants.set_disabled(email, disabled=True)
    assert (await forget(world, email)).status_code == 202
    [letter] = await letters_to(world, email)
    assert problem(await reset(world, letter.token)) == (410, "link-expired")


async def test_nobodys_mailbox_is_filled(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    for _ in range(8):
        assert (await forget(world, tenant.owner_email)).status_code == 202
    assert len(await letters_to(world, tenant.owner_email)) == 5
    world.clock.advance(3601)
    await forget(world, tenant.owner_email)
    assert len(await letters_to(world, tenant.owner_email)) == 6


async def test_whatever_is_forgotten_is_answered(world: World) -> None:
    for email in ("nobody", f"{secrets.token_hex(100)}@example.com", "ada@example.com\nBcc: eve@example.com"):
        assert (await forget(world, email)).status_code == 202
