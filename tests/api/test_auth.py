"""Logging in, staying logged in and being thrown out, over HTTP, in both shapes."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient, Response
from passlib.hash import argon2

from backend.domain.ids import UserId
from backend.domain.scopes import ROLE_SCOPES, Role
from backend.domain.sessions import ABSOLUTE_LIFETIME, IDLE_LIFETIME, REUSE_LEEWAY
from backend.domain.tenants import Membership, TenantStatus
from tests.api.conftest import (
    PASSWORD,
    ClockedWorld,
    TenantUnderTest,
    World,
    a_new_address,
    calling_from,
    embedded_settings,
    running,
)
from tests.api.hashing import hashes_counted
from tests.api.test_predictions import problem

pytestmark = pytest.mark.anyio

WRONG = "seven purple elephants sleep"


async def ask(client: AsyncClient, **form: str) -> Response:
    """Ask the token endpoint, by default with a password."""
    return await client.post("/v1/auth/token", data={"grant_type": "password", **form})


async def log_in(client: AsyncClient, email: str, **form: str) -> dict[str, Any]:
    answer = await ask(client, username=email, password=PASSWORD, **form)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def refresh(client: AsyncClient, token: str, **form: str) -> Response:
    return await client.post("/v1/auth/token", data={"grant_type": "refresh_token", "refresh_token": token, **form})


async def me(client: AsyncClient, tokens: dict[str, Any]) -> Response:
    return await client.get("/v1/me", headers=bearer(tokens["access_token"]))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def oauth_error(answer: Response) -> tuple[int, str]:
    """Check what every refusal of the token endpoint has to have (RFC 6749 section 5.2)."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json().keys() == {"error", "error_description"}
    return answer.status_code, answer.json()["error"]


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return content


def all_scopes(role: Role) -> str:
    return " ".join(sorted(ROLE_SCOPES[role]))


async def set_status(world: World, tenant: TenantUnderTest, status: TenantStatus) -> None:
    async with world.resources.store.unit_of_work() as unit:
        await unit.tenants.set_status(tenant.id, status)


# Password grant


async def test_a_password_buys_tokens_with_all_scopes_of_the_seat(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    answer = await ask(stranger, username=tenant.owner_email, password=PASSWORD)
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert body["token_type"] == "bearer"
    assert 0 < body["expires_in"] <= 15 * 60
    assert body["scope"] == all_scopes(Role.OWNER)
    claims = claims_of(body["access_token"])
    assert claims["tid"] == tenant.id
    assert claims["exp"] - claims["iat"] == body["expires_in"]
    assert (await me(stranger, body)).status_code == 200


@pytest.mark.parametrize("role", list(Role))
async def test_a_seat_gives_its_roles_scopes(world: World, stranger: AsyncClient, role: Role) -> None:
    email = await world.member(await world.tenant(), role)
    assert (await log_in(stranger, email))["scope"] == all_scopes(role)


async def test_an_address_is_the_same_in_any_case(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    for spelling in (tenant.owner_email.upper(), f"  {tenant.owner_email} "):
        await log_in(stranger, spelling)


async def test_o7_token_answers_are_not_stored_anywhere(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    granted = await ask(stranger, username=tenant.owner_email, password=PASSWORD)
    renewed = await refresh(stranger, granted.json()["refresh_token"])
    for answer in (granted, renewed):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"


async def test_o7_a_token_in_a_url_is_refused_under_any_name(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    for secret in (tokens["access_token"], tokens["refresh_token"], "fs_" + "a" * 43):
        for query in (f"q={secret}", secret):
            answer = await stranger.get(f"/livez?{query}")
            assert problem(answer) == (400, "key-in-url")
            assert secret not in answer.text


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "token", "password", "client_secret"])
async def test_o7_secrets_in_a_url_are_refused_wherever_they_are_sent(world: World, name: str) -> None:
    for method, path in (("POST", "/v1/auth/token"), ("GET", "/v1/me"), ("GET", "/livez")):
        answer = await world.client.request(method, path, params={name: "something"})
        assert problem(answer) == (400, "key-in-url"), path
        assert "something" not in answer.text


async def test_the_scope_of_a_login_can_be_narrowed(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email, scope="usage:read  keys:read")
    assert tokens["scope"] == "keys:read usage:read"
    headers = bearer(tokens["access_token"])
    assert (await stranger.get("/v1/api-keys", headers=headers)).status_code == 200
    assert problem(await stranger.get("/v1/models", headers=headers)) == (403, "insufficient-scope")


@pytest.mark.parametrize("scope", ["", "   "])
async def test_no_scope_is_all_scopes(world: World, stranger: AsyncClient, scope: str) -> None:
    tenant = await world.tenant()
    assert (await log_in(stranger, tenant.owner_email, scope=scope))["scope"] == all_scopes(Role.OWNER)


@pytest.mark.parametrize("scope", ["admin", "usage:all", "everything", "predict root", "PREDICT", "predict,keys:read"])
async def test_400_invalid_scope(world: World, stranger: AsyncClient, scope: str) -> None:
    tenant = await world.tenant()
    answer = await ask(stranger, username=tenant.owner_email, password=PASSWORD, scope=scope)
    assert oauth_error(answer) == (400, "invalid_scope")


async def test_400_invalid_scope_of_another_role(world: World, stranger: AsyncClient) -> None:
    email = await world.member(await world.tenant(), Role.VIEWER)
    answer = await ask(stranger, username=email, password=PASSWORD, scope="keys:read keys:write")
    assert oauth_error(answer) == (400, "invalid_scope")


@pytest.mark.parametrize(
    "grant_type", ["authorization_code", "implicit", "Password", "urn:ietf:params:oauth:grant-type:device_code", "x"]
)
async def test_400_unsupported_grant_type(world: World, stranger: AsyncClient, grant_type: str) -> None:
    answer = await stranger.post("/v1/auth/token", data={"grant_type": grant_type})
    assert oauth_error(answer) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": ""},
        {"grant_type": "password"},
        {"grant_type": "password", "username": "a@b.example"},
        {"grant_type": "password", "password": WRONG},
        {"grant_type": "password", "username": "", "password": WRONG},
        {"grant_type": "refresh_token"},
        {"grant_type": "refresh_token", "refresh_token": ""},
        {"grant_type": "password", "username": "a@b.example", "password": "x" * 1025},
        {"grant_type": "password", "username": "a" * 255, "password": WRONG},
    ],
)
async def test_400_invalid_request(world: World, stranger: AsyncClient, form: dict[str, str]) -> None:
    assert oauth_error(await stranger.post("/v1/auth/token", data=form)) == (400, "invalid_request")


async def test_400_invalid_request_for_anything_but_a_form(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    form = {"grant_type": "password", "username": tenant.owner_email, "password": PASSWORD}
    assert oauth_error(await stranger.post("/v1/auth/token", json=form)) == (400, "invalid_request")
    assert oauth_error(await stranger.post("/v1/auth/token", content=b"\xff\x00{")) == (400, "invalid_request")


@pytest.mark.parametrize("strange", ["\0", "\x00owner@x.example", "o\u0308@x.example", "\ud83d\ude00@x.example", "%00"])
async def test_strange_characters_are_only_wrong(world: World, stranger: AsyncClient, strange: str) -> None:
    username = strange.encode("utf-16", "surrogatepass").decode("utf-16")
    answer = await ask(stranger, username=username, password=WRONG, tenant=username)
    assert oauth_error(answer) == (400, "invalid_grant")
    assert oauth_error(await refresh(stranger, username)) == (400, "invalid_grant")


# P4: nothing tells a wrong password from anything else


async def refusals_of_a_login(world: World) -> dict[str, Response]:
    """Every way in which a login can fail, each from an address of its own."""
    tenant, suspended = await world.tenant(), await world.tenant()
    disabled = await world.member(tenant, Role.DEVELOPER)
    world.change("UPDATE users SET disabled = :yes WHERE email = :email", yes=True, email=disabled)
    await set_status(world, suspended, TenantStatus.SUSPENDED)
    attempts = {
        "wrong password": {"username": tenant.owner_email, "password": WRONG},
        "unknown user": {"username": f"nobody@{tenant.slug}.example", "password": WRONG},
        "disabled user": {"username": disabled, "password": PASSWORD},
        "no address": {"username": "nobody", "password": WRONG},
        "overlong password": {"username": tenant.owner_email, "password": PASSWORD * 10},
        "suspended tenant": {"username": suspended.owner_email, "password": PASSWORD},
        "another's tenant": {"username": tenant.owner_email, "password": PASSWORD, "tenant": suspended.slug},
        "unknown tenant": {"username": tenant.owner_email, "password": PASSWORD, "tenant": "nobodys"},
    }
    answers = {}
    for name, form in attempts.items():
        async with calling_from(world, a_new_address()) as client:
            answers[name] = await ask(client, **form)
    return answers


async def test_p4_every_failed_login_has_the_same_status_body_and_headers(world: World) -> None:
    answers = await refusals_of_a_login(world)
    seen = {
        name: (
            answer.status_code,
            answer.content,
            sorted((key, value) for key, value in answer.headers.items() if key != "x-request-id"),
        )
        for name, answer in answers.items()
    }
    assert oauth_error(answers["wrong password"]) == (400, "invalid_grant")
    assert len(set(map(str, seen.values()))) == 1, seen


async def test_p4_an_unknown_address_takes_as_much_work_as_a_wrong_password(world: World) -> None:
    """That comparing with no hash takes as much as comparing with one is tested where passwords are hashed."""
    tenant = await world.tenant()
    work = []
    for name in (tenant.owner_email, f"nobody@{tenant.slug}.example"):
        with hashes_counted(world) as hashes:
            async with calling_from(world, a_new_address()) as client:
                assert (await ask(client, username=name, password=WRONG)).status_code == 400
        work.append(hashes.asked)
    assert work == [["verify"], ["verify"]]


# Several seats


async def test_a_user_of_several_tenants_chooses_one(world: World, stranger: AsyncClient) -> None:
    first, second = await world.tenant(), await world.tenant()
    [[user_id]] = world.rows("SELECT id FROM users WHERE email = :email", email=first.owner_email)
    async with world.resources.store.unit_of_work() as unit:
        seat = Membership(
            id=f"mem_{second.slug}",
            tenant_id=second.id,
            user_id=UserId(user_id),
            role=Role.VIEWER,
            created_at=datetime.now(UTC) + timedelta(seconds=1),
        )
        await unit.memberships.add(second.id, seat)
    by_default = await log_in(stranger, first.owner_email)
    assert claims_of(by_default["access_token"])["tid"] == first.id, "the oldest seat"
    chosen = await log_in(stranger, first.owner_email, tenant=second.slug)
    assert claims_of(chosen["access_token"])["tid"] == second.id
    assert chosen["scope"] == all_scopes(Role.VIEWER)
    profile = (await me(stranger, chosen)).json()
    assert profile["tenant"]["slug"] == second.slug
    assert {seat["slug"]: seat["role"] for seat in profile["memberships"]} == {
        first.slug: "owner",
        second.slug: "viewer",
    }
    await set_status(world, first, TenantStatus.SUSPENDED)
    assert claims_of((await log_in(stranger, first.owner_email))["access_token"])["tid"] == second.id


async def test_a9_a_suspended_tenant_is_refused_on_the_next_request_and_comes_back(
    world: World, stranger: AsyncClient
) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    await set_status(world, tenant, TenantStatus.SUSPENDED)
    assert problem(await me(stranger, tokens)) == (403, "tenant-suspended")
    assert oauth_error(await refresh(stranger, tokens["refresh_token"])) == (400, "invalid_grant")
    await set_status(world, tenant, TenantStatus.ACTIVE)
    assert (await me(stranger, tokens)).status_code == 200
    assert (await refresh(stranger, tokens["refresh_token"])).status_code == 200


async def test_a9_a_disabled_user_is_refused_on_the_next_request(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    world.change("UPDATE users SET disabled = :yes WHERE email = :email", yes=True, email=tenant.owner_email)
    assert problem(await me(stranger, tokens)) == (401, "invalid-credentials")
    assert oauth_error(await refresh(stranger, tokens["refresh_token"])) == (400, "invalid_grant")


# Who am I


async def test_a_user_sees_who_it_is_and_where(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.DEVELOPER)
    body = (await me(stranger, await log_in(stranger, email, scope="predict keys:read"))).json()
    assert body["email"] == email
    assert body["role"] == "developer"
    assert body["scopes"] == ["keys:read", "predict"]
    assert body["tenant"] == {"tenant_id": tenant.id, "slug": tenant.slug, "name": tenant.slug, "role": "developer"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["created_at"])


async def test_403_an_api_key_is_nobody(world: World) -> None:
    tenant = await world.tenant()
    assert problem(await world.client.get("/v1/me", headers=tenant.live.headers)) == (403, "forbidden")


async def test_a5_nothing_of_a_users_secrets_is_shown(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    shown = (await me(stranger, tokens)).text
    for word in ("argon2", "hash", "password", "pepper", tokens["refresh_token"], tokens["access_token"]):
        assert word not in shown


# Access tokens at the door


async def test_j1_a_tampered_token_is_refused(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    header, claims, signature = tokens["access_token"].split(".")
    other = claims_of(tokens["access_token"]) | {"scope": "admin"}
    forged = base64.urlsafe_b64encode(json.dumps(other).encode()).rstrip(b"=").decode()
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    for token in (f"{header}.{forged}.{signature}", f"{header}.{claims}.{flipped}", f"{header}.{claims}."):
        answer = await stranger.get("/v1/me", headers=bearer(token))
        assert problem(answer) == (401, "invalid-credentials")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        predicted = await stranger.post("/v1/predict", json={"model": "iris", "inputs": []}, headers=bearer(token))
        assert problem(predicted) == (401, "invalid-credentials")


async def test_j4_a_refresh_token_is_no_access_token_and_the_reverse(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    answer = await stranger.get("/v1/me", headers=bearer(tokens["refresh_token"]))
    assert problem(answer) == (401, "invalid-credentials")
    assert (await refresh(stranger, tokens["access_token"])).status_code == 400


async def test_j7_the_key_that_signed_is_published_and_the_metadata_names_the_issuer(
    world: World, stranger: AsyncClient
) -> None:
    tenant = await world.tenant()
    token = (await log_in(stranger, tenant.owner_email))["access_token"]
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    keys = await stranger.get("/.well-known/jwks.json")
    assert header["kid"] in {key["kid"] for key in keys.json()["keys"]}
    assert all("d" not in key for key in keys.json()["keys"])
    metadata = await stranger.get("/.well-known/oauth-authorization-server")
    assert metadata.json()["issuer"] == claims_of(token)["iss"] == claims_of(token)["aud"]
    assert "password" in metadata.json()["grant_types_supported"]
    assert metadata.json()["token_endpoint"].endswith("/v1/auth/token")
    for answer in (keys, metadata):
        assert "max-age" in answer.headers["cache-control"]


async def test_j9_an_access_token_ends_after_its_lifetime(clocked_world: ClockedWorld, stranger: AsyncClient) -> None:
    tenant = await clocked_world.tenant()
    tokens = await log_in(stranger, tenant.owner_email)
    assert tokens["expires_in"] <= 15 * 60
    clocked_world.clock.advance(tokens["expires_in"])
    assert (await me(stranger, tokens)).status_code == 200, "clocks may differ by half a minute"
    clocked_world.clock.advance(30)
    assert problem(await me(stranger, tokens)) == (401, "invalid-credentials")


async def test_j9_losing_a_role_takes_effect_on_the_next_request(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.DEVELOPER)
    tokens = await log_in(stranger, email)
    headers = bearer(tokens["access_token"])

    async def create() -> Response:
        return await stranger.post("/v1/api-keys", json={"name": "key", "environment": "test"}, headers=headers)

    async def take_seat(role: str) -> None:
        [[user_id]] = world.rows("SELECT id FROM users WHERE email = :email", email=email)
        world.change("UPDATE memberships SET role = :role WHERE user_id = :user", role=role, user=user_id)

    assert (await create()).status_code == 201
    await take_seat("viewer")
    assert problem(await create()) == (403, "insufficient-scope")
    assert (await stranger.get("/v1/api-keys", headers=headers)).status_code == 200
    assert (await refresh(stranger, tokens["refresh_token"])).json()[
        "scope"
    ] == "keys:read limits:read models:read usage:read"
    await take_seat("owner")
    assert (await create()).status_code == 201
    answer = await stranger.get("/v1/audit-log", headers=headers)
    assert answer.status_code in {403, 404}, "a token never gains what it was not granted"


async def test_j9_losing_the_seat_takes_effect_on_the_next_request(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.ADMIN)
    tokens = await log_in(stranger, email)
    [[user_id]] = world.rows("SELECT id FROM users WHERE email = :email", email=email)
    world.change("DELETE FROM memberships WHERE user_id = :user", user=user_id)
    assert problem(await me(stranger, tokens)) == (401, "invalid-credentials")
    assert oauth_error(await refresh(stranger, tokens["refresh_token"])) == (400, "invalid_grant")


# Refresh tokens


async def test_a_refresh_token_is_exchanged_for_its_successor(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    first = await log_in(stranger, tenant.owner_email)
    second = (await refresh(stranger, first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    assert second["scope"] == first["scope"]
    assert claims_of(second["access_token"])["sid"] == claims_of(first["access_token"])["sid"]
    third = (await refresh(stranger, second["refresh_token"])).json()
    for tokens in (first, second, third):
        assert (await me(stranger, tokens)).status_code == 200


async def test_a_refresh_may_narrow_the_scope_and_never_widen_it(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    first = await log_in(stranger, tenant.owner_email, scope="keys:read models:read")
    second = (await refresh(stranger, first["refresh_token"], scope="keys:read")).json()
    assert second["scope"] == "keys:read"
    refused = await refresh(stranger, second["refresh_token"], scope="keys:read usage:read")
    assert oauth_error(refused) == (400, "invalid_scope")
    third = (await refresh(stranger, second["refresh_token"])).json()
    assert third["scope"] == "keys:read models:read", "what was granted at the login"


async def test_400_invalid_grant_for_tokens_nobody_gave(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    token = (await log_in(stranger, tenant.owner_email))["refresh_token"]
    for other in ("fr_" + "A" * 43, token[:-1], token + "A", token.upper(), f" {token}x", "' OR '1'='1", "x"):
        assert oauth_error(await refresh(stranger, other)) == (400, "invalid_grant"), other
    assert (await refresh(stranger, token)).status_code == 200, "and the real one is none the worse"


async def test_o4_twenty_refreshes_at_once_make_one_new_member_and_get_the_same_successor(
    world: World, stranger: AsyncClient
) -> None:
    tenant = await world.tenant()
    first = await log_in(stranger, tenant.owner_email)
    answers = await asyncio.gather(*(refresh(stranger, first["refresh_token"]) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    session_id = claims_of(first["access_token"])["sid"]
    [[members]] = world.rows("SELECT count(*) FROM refresh_tokens WHERE session_id = :id", id=session_id)
    assert members == 2
    assert (await refresh(stranger, answers[0].json()["refresh_token"])).status_code == 200


async def test_o4_the_immediate_predecessor_gets_the_same_successor_within_the_leeway(
    clocked_world: ClockedWorld, stranger: AsyncClient
) -> None:
    assert REUSE_LEEWAY.total_seconds() <= 10
    tenant = await clocked_world.tenant()
    first = await log_in(stranger, tenant.owner_email)
    lost = (await refresh(stranger, first["refresh_token"])).json()
    clocked_world.clock.advance(REUSE_LEEWAY.total_seconds())
    again = (await refresh(stranger, first["refresh_token"])).json()
    assert again["refresh_token"] == lost["refresh_token"]
    assert (await me(stranger, again)).status_code == 200


async def is_ended(client: AsyncClient, *family: dict[str, Any]) -> bool:
    """Whether none of a login's refresh and access tokens is any good."""
    refreshed = [oauth_error(await refresh(client, tokens["refresh_token"])) for tokens in family]
    used = [problem(await me(client, tokens)) for tokens in family]
    return set(refreshed) == {(400, "invalid_grant")} and set(used) == {(401, "invalid-credentials")}


async def test_o3_a_reused_refresh_token_ends_the_whole_login_with_its_access_tokens(
    clocked_world: ClockedWorld, stranger: AsyncClient
) -> None:
    tenant = await clocked_world.tenant()
    other_login = await log_in(stranger, tenant.owner_email)
    first = await log_in(stranger, tenant.owner_email)
    second = (await refresh(stranger, first["refresh_token"])).json()
    clocked_world.clock.advance(REUSE_LEEWAY.total_seconds() + 1)
    assert oauth_error(await refresh(stranger, first["refresh_token"])) == (400, "invalid_grant")
    assert await is_ended(stranger, first, second)
    assert (await me(stranger, other_login)).status_code == 200, "another login is not concerned"
    assert (await refresh(stranger, other_login["refresh_token"])).status_code == 200


async def test_o4_the_leeway_is_for_the_immediate_predecessor_alone(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    first = await log_in(stranger, tenant.owner_email)
    second = (await refresh(stranger, first["refresh_token"])).json()
    third = (await refresh(stranger, second["refresh_token"])).json()
    assert oauth_error(await refresh(stranger, first["refresh_token"])) == (400, "invalid_grant")
    assert await is_ended(stranger, first, second, third)


async def test_o5_a_login_that_is_not_used_ends(clocked_world: ClockedWorld, stranger: AsyncClient) -> None:
    tenant = await clocked_world.tenant()
    used = (await log_in(stranger, tenant.owner_email))["refresh_token"]
    unused = (await log_in(stranger, tenant.owner_email))["refresh_token"]
    clocked_world.clock.advance(IDLE_LIFETIME.total_seconds() - 1)
    used = (await refresh(stranger, used)).json()["refresh_token"]
    clocked_world.clock.advance(1)
    assert oauth_error(await refresh(stranger, unused)) == (400, "invalid_grant")
    assert (await refresh(stranger, used)).status_code == 200


async def test_o5_no_login_lasts_for_ever(clocked_world: ClockedWorld, stranger: AsyncClient) -> None:
    tenant = await clocked_world.tenant()
    token = (await log_in(stranger, tenant.owner_email))["refresh_token"]
    began = clocked_world.clock.now()
    step = IDLE_LIFETIME - timedelta(days=1)
    while clocked_world.clock.now() + step < began + ABSOLUTE_LIFETIME:
        clocked_world.clock.advance(step.total_seconds())
        token = (await refresh(stranger, token)).json()["refresh_token"]
    clocked_world.clock.set(began + ABSOLUTE_LIFETIME)
    assert oauth_error(await refresh(stranger, token)) == (400, "invalid_grant")


async def test_o3_the_store_holds_no_refresh_token(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    first = await log_in(stranger, tenant.owner_email)
    second = (await refresh(stranger, first["refresh_token"])).json()
    rows = world.rows("SELECT * FROM refresh_tokens") + world.rows("SELECT * FROM sessions")
    held = repr([tuple(row) for row in rows])
    for tokens in (first, second):
        raw = base64.urlsafe_b64decode(tokens["refresh_token"].removeprefix("fr_") + "=")
        assert tokens["refresh_token"] not in held
        assert repr(raw)[2:-1] not in held


# P3, P6


async def test_p3_a_weak_hash_is_replaced_at_the_next_login(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    weak = argon2.using(type="ID", rounds=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    statement = "UPDATE users SET password_hash = :hash WHERE email = :email"
    world.change(statement, hash=weak, email=tenant.owner_email)
    query = "SELECT password_hash FROM users WHERE email = :email"
    assert (await ask(stranger, username=tenant.owner_email, password=WRONG)).status_code == 400
    assert world.rows(query, email=tenant.owner_email) == [(weak,)], "a failed login changes nothing"
    await log_in(stranger, tenant.owner_email)
    [[upgraded]] = world.rows(query, email=tenant.owner_email)
    parameters = re.match(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$", upgraded)
    assert parameters
    assert int(parameters[1]) >= 19456
    assert int(parameters[2]) >= 2
    await log_in(stranger, tenant.owner_email)
    assert world.rows(query, email=tenant.owner_email) == [(upgraded,)], "once is enough"


async def fail_until_slowed_down(client: AsyncClient, email: str) -> Response:
    for _ in range(12):
        answer = await ask(client, username=email, password=WRONG)
        if answer.status_code == 429:
            return answer
    raise AssertionError("twelve guesses in a row")


async def test_p6_guessing_is_slowed_down_and_the_owner_still_gets_in(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    async with calling_from(world, a_new_address()) as home:
        await log_in(home, tenant.owner_email)
        answer = await fail_until_slowed_down(stranger, tenant.owner_email)
        assert oauth_error(answer) == (429, "slow_down")
        assert 1 <= int(answer.headers["retry-after"]) <= 900
        # Not even the right password helps the one who guesses, while the owner notices nothing.
        assert (await ask(stranger, username=tenant.owner_email, password=PASSWORD)).status_code == 429
        await log_in(home, tenant.owner_email)


async def test_p6_an_unknown_address_is_slowed_down_like_a_known_one(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    assert oauth_error(await fail_until_slowed_down(stranger, f"nobody@{tenant.slug}.example")) == (429, "slow_down")


async def test_p6_one_network_cannot_try_one_password_on_many_accounts(world: World, stranger: AsyncClient) -> None:
    tenant = await world.tenant()
    answers = [
        await ask(stranger, username=f"user{number}@{tenant.slug}.example", password=WRONG) for number in range(12)
    ]
    assert oauth_error(answers[0]) == (400, "invalid_grant")
    assert oauth_error(answers[-1]) == (429, "slow_down")


# Where passwords are switched off


@pytest.fixture(scope="module")
async def passwordless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    settings = embedded_settings(tmp_path_factory.mktemp("passwordless"), password_grant=False)
    async with running(settings, "passwordless") as world:
        yield world


async def test_o1_the_password_grant_can_be_switched_off(passwordless: World) -> None:
    tenant = await passwordless.tenant()
    for password in (PASSWORD, WRONG):
        answer = await ask(passwordless.client, username=tenant.owner_email, password=password)
        assert oauth_error(answer) == (400, "unsupported_grant_type")
    metadata = (await passwordless.client.get("/.well-known/oauth-authorization-server")).json()
    assert "password" not in metadata["grant_types_supported"]
    assert "refresh_token" in metadata["grant_types_supported"]
    answer = await passwordless.client.get("/v1/models", headers=tenant.live.headers)
    assert answer.status_code == 200, "API keys work all the same"


# K4: what is no credential is refused everywhere


CREDENTIALS = [
    "Bearer ' OR '1'='1",
    "Bearer a.b.c",
    "Bearer fc_live_AbCdEf012345_ZyXwVuTsRqPoNmLkJiHgFeDcBa9876542qbqqG",
    "Basic b3duZXI6c2VjcmV0",
    "Bearer",
    "Bearer \u00e9",
]


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_k4_what_is_no_credential_is_401_on_every_route_that_asks_for_one(world: World, credential: str) -> None:
    document = (await world.client.get("/openapi.json")).json()
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "security" not in operation:
                continue
            url = re.sub(r"\{\w+\}", "' OR '1'='1", path)
            for content in (None, b"{}", b"[[[", b"\xff"):
                answer = await world.client.request(
                    method,
                    url,
                    content=content,
                    headers={b"Authorization": credential.encode(), b"Content-Type": b"application/json"},
                )
                assert problem(answer) == (401, "invalid-credentials"), (method, path, content, answer.text)
            asked += 1
    assert asked >= 10


async def test_401_without_any_credential_and_with_two_that_differ(world: World) -> None:
    tenant = await world.tenant()
    assert problem(await world.client.get("/v1/models")) == (401, "invalid-credentials")
    both = {"Authorization": f"Bearer {tenant.live.secret}", "X-API-Key": tenant.test.secret}
    assert problem(await world.client.get("/v1/models", headers=both)) == (401, "invalid-credentials")
    twice = {"Authorization": f"Bearer {tenant.live.secret}", "X-API-Key": tenant.live.secret}
    assert (await world.client.get("/v1/models", headers=twice)).status_code == 200
