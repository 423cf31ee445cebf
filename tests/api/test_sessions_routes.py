"""Logins as their people see and end them, and token revocation, in both shapes."""

from pathlib import Path
from typing import Any

import pytest

from backend.domain.audit import PLATFORM_CHAIN
from backend.domain.scopes import PlatformRole, Role
from tests.api.conftest import IRIS, PASSWORD, World, embedded_settings, running
from tests.api.operators import platform_program
from tests.api.test_predictions import problem
from tests.api.trails import actions, trail

pytestmark = pytest.mark.anyio


async def login(world: World, email: str, **headers: str) -> dict[str, Any]:
    form = {"grant_type": "password", "username": email, "password": PASSWORD}
    answer = await world.client.post("/v1/auth/token", data=form, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def sessions(world: World, tokens: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await world.client.get("/v1/me/sessions", headers=bearer(tokens))
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def is_in(world: World, tokens: dict[str, Any]) -> bool:
    status: int = (await world.client.get("/v1/me", headers=bearer(tokens))).status_code
    assert status in {200, 401}
    return status == 200


async def can_refresh(world: World, tokens: dict[str, Any]) -> bool:
    answer = await world.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert answer.status_code in {200, 400}
    return answer.status_code == 200


async def test_the_callers_logins_are_listed(world: World) -> None:
    tenant = await world.tenant()
    await login(world, tenant.owner_email, **{"User-Agent": "laptop/1"})
    phone = await login(world, tenant.owner_email, **{"User-Agent": "phone/" + "2" * 300})
    newest, older = await sessions(world, phone)
    assert [newest["current"], older["current"]] == [True, False]
    assert older["user_agent"] == "laptop/1"
    assert newest["user_agent"] == ("phone/" + "2" * 300)[:200]
    assert newest["address"] == world.address
    assert newest["tenant_id"] == tenant.id
    assert {*newest} == {"id", "tenant_id", "created_at", "last_used_at", "current", "address", "user_agent"}


async def test_a5_no_login_shows_a_token_or_a_hash(world: World) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    answer = await world.client.get("/v1/me/sessions", headers=bearer(tokens))
    assert tokens["refresh_token"] not in answer.text
    assert "hash" not in answer.text


async def test_an_ended_login_is_out_at_once_and_alone(world: World) -> None:
    tenant = await world.tenant()
    laptop, phone = await login(world, tenant.owner_email), await login(world, tenant.owner_email)
    [current] = [each for each in await sessions(world, laptop) if each["current"]]
    before = len(await actions(world, tenant.id))
    answer = await world.client.delete(f"/v1/me/sessions/{current['id']}", headers=bearer(phone))
    assert (answer.status_code, answer.content) == (204, b"")
    assert not await is_in(world, laptop)
    assert not await can_refresh(world, laptop)
    assert await is_in(world, phone)
    assert [each["id"] for each in await sessions(world, phone)] != [current["id"]]
    assert (await actions(world, tenant.id))[before:] == ["session.revoked"]
    again = await world.client.delete(f"/v1/me/sessions/{current['id']}", headers=bearer(phone))
    assert problem(again) == (404, "not-found")


async def test_one_may_end_the_login_one_uses(world: World) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    [session] = await sessions(world, tokens)
    answer = await world.client.delete(f"/v1/me/sessions/{session['id']}", headers=bearer(tokens))
    assert answer.status_code == 204
    assert not await is_in(world, tokens)


async def test_a1_somebody_elses_login_is_not_found_not_even_a_colleagues(world: World) -> None:
    tenant = await world.tenant()
    victim = await login(world, tenant.owner_email)
    [session] = await sessions(world, victim)
    for email in (await world.member(tenant, Role.OWNER), (await world.tenant()).owner_email):
        stranger = await login(world, email)
        answer = await world.client.delete(f"/v1/me/sessions/{session['id']}", headers=bearer(stranger))
        assert problem(answer) == (404, "not-found")
    assert await is_in(world, victim)


async def test_a9_a_disabled_user_is_out_at_once_and_the_logins_do_not_come_back(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.VIEWER)
    tokens = await login(world, email)
    async with world._unit() as (tenants, _):
        await tenants.set_disabled(email, disabled=True)
    assert not await is_in(world, tokens)
    assert not await can_refresh(world, tokens)
    assert (await world.token(username=email, password=PASSWORD)).status_code == 400
    async with world._unit() as (tenants, _):
        await tenants.set_disabled(email, disabled=False)
    assert not await is_in(world, tokens)
    assert await is_in(world, await login(world, email))
    async with world.resources.store.unit_of_work(read_only=True) as unit:
        user = await unit.users.by_email(email)
    assert user is not None
    done = [record.entry.action for record in await trail(world, PLATFORM_CHAIN) if record.entry.target_id == user.id]
    assert done == ["user.created", "user.disabled", "user.enabled"]


async def test_a_key_has_no_logins(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/me/sessions", headers=tenant.live.headers)
    assert problem(answer) == (403, "forbidden")


# ------------------------------------------------------------------------------------------------------ RFC 7009


async def revoke(world: World, token: str, **form: str) -> int:
    answer = await world.client.post("/v1/auth/revoke", data={"token": token, **form})
    assert answer.content == b""
    return answer.status_code


HINTS = [None, "refresh_token", "access_token", "nonsense"]
each_hint = pytest.mark.parametrize("hint", HINTS)


@each_hint
async def test_revoking_a_refresh_token_ends_the_login(world: World, hint: str | None) -> None:
    tenant = await world.tenant()
    tokens, other = await login(world, tenant.owner_email), await login(world, tenant.owner_email)
    before = len(await actions(world, tenant.id))
    assert await revoke(world, tokens["refresh_token"], **({"token_type_hint": hint} if hint else {})) == 200
    assert not await is_in(world, tokens)
    assert not await can_refresh(world, tokens)
    assert await is_in(world, other)
    assert (await actions(world, tenant.id))[before:] == ["session.revoked"]
    assert await revoke(world, tokens["refresh_token"]) == 200
    assert len(await actions(world, tenant.id)) == before + 1


@each_hint
async def test_revoking_an_access_token_ends_that_one_alone_and_at_once(world: World, hint: str | None) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    newer = (await world.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])).json()
    before = len(await actions(world, tenant.id))
    for _ in range(2):
        assert await revoke(world, tokens["access_token"], **({"token_type_hint": hint} if hint else {})) == 200
        assert not await is_in(world, tokens)
    predicted = await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=bearer(tokens))
    assert problem(predicted) == (401, "invalid-credentials")
    assert await is_in(world, newer)
    assert await can_refresh(world, newer)
    found = [record.entry for record in (await trail(world, tenant.id))[before:]]
    assert [entry.action for entry in found] == ["access-token.revoked"]
    assert tokens["access_token"] not in str(found)


async def test_a_programs_access_token_is_revoked_alone(world: World) -> None:
    tenant = await world.tenant()
    body = {"name": "job", "scopes": ["predict", "models:read"]}
    owner = await world.log_in(tenant.owner_email)
    account = (await world.client.post("/v1/service-accounts", json=body, headers=owner)).json()
    form = {"client_id": account["client_id"], "client_secret": account["client_secret"]}
    revoked, other = [(await world.token(grant_type="client_credentials", **form)).json() for _ in range(2)]
    assert await revoke(world, revoked["access_token"]) == 200
    for path, expected in (("/v1/models", 401), ("/v1/predict", 401)):
        method, content = ("POST", {"model": "iris", "inputs": IRIS}) if path == "/v1/predict" else ("GET", None)
        answer = await world.client.request(method, path, json=content, headers=bearer(revoked))
        assert answer.status_code == expected
        answer = await world.client.request(method, path, json=content, headers=bearer(other))
        assert answer.status_code == 200, answer.text
    entry = (await trail(world, tenant.id))[-1].entry
    assert (entry.action, entry.actor.kind, entry.actor.id) == (
        "access-token.revoked",
        "service-account",
        account["id"],
    )


async def test_a_platform_programs_access_token_is_revoked_too(world: World) -> None:
    headers = await platform_program(world)
    assert (await world.client.get("/v1/admin/plans", headers=headers)).status_code == 200
    assert await revoke(world, headers["Authorization"].removeprefix("Bearer ")) == 200
    assert problem(await world.client.get("/v1/admin/plans", headers=headers)) == (401, "invalid-credentials")


async def test_a9_an_access_token_revoked_at_one_server_is_refused_by_another(world: World) -> None:
    """Two servers over one store: nothing is remembered in a process."""
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    database: Any = world.resources.store
    settings = embedded_settings(
        Path(world.app.state.mail_folder).parent,
        database_url=database.engine.url.render_as_string(hide_password=False),
    )
    async with running(settings, "second") as second:
        assert await is_in(second, tokens)
        assert await revoke(world, tokens["access_token"]) == 200
        assert not await is_in(second, tokens)


async def test_o3_a_rotated_token_still_revokes_its_family(world: World) -> None:
    tenant = await world.tenant()
    tokens = await login(world, tenant.owner_email)
    newer = (await world.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])).json()
    assert await revoke(world, tokens["refresh_token"]) == 200
    assert not await is_in(world, newer)


@pytest.mark.parametrize("token", ["nonsense", "fr_" + "A" * 43, "a.b.c", "x" * 8000])
async def test_an_unknown_token_is_answered_the_same(world: World, token: str) -> None:
    assert await revoke(world, token) == 200


async def test_a_request_without_a_token_is_invalid(world: World) -> None:
    answer = await world.client.post("/v1/auth/revoke", data={})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


# ------------------------------------------------------------------------------------------------ above all tenants


async def test_an_operator_sees_and_ends_logins_too(world: World) -> None:
    email = f"operator@{(await world.tenant()).slug}.example"
    async with world._unit() as (tenants, _):
        await tenants.add_user(email=email, password=PASSWORD, platform_role=PlatformRole.OPERATOR)
    tokens, other = await login(world, email), await login(world, email)
    me = (await world.client.get("/v1/me", headers=bearer(tokens))).json()
    assert (me["tenant"], me["role"], me["memberships"]) == (None, "operator", [])
    assert me["scopes"] == ["admin", "billing:close", "models:read", "usage:adjust", "usage:all"]
    assert len(await sessions(world, tokens)) == 2
    [session] = [each for each in await sessions(world, other) if each["current"]]
    answer = await world.client.delete(f"/v1/me/sessions/{session['id']}", headers=bearer(tokens))
    assert answer.status_code == 204
    assert not await is_in(world, other)
    assert (await actions(world, PLATFORM_CHAIN))[-1] == "session.revoked"
