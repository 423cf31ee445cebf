"""API keys over HTTP, in both shapes: made once, shown without their secret, revoked at once."""

import asyncio
import re
import secrets
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient, Response
from redis.asyncio import Redis
from sqlalchemy import make_url

from backend.api import deps
from backend.domain.api_keys import BASE62, Environment, KeyGrant, mint_key, write_key
from backend.domain.scopes import TENANT_SCOPES, Role, Scope
from backend.domain.tenants import TenantStatus
from tests.api.conftest import (
    IRIS,
    ClockedWorld,
    Key,
    TenantUnderTest,
    World,
    calling_from,
    embedded_settings,
    running,
)
from tests.api.test_predictions import pointers, problem

pytestmark = pytest.mark.anyio

WRITTEN = re.compile(r"fc_(live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]{32}[0-9A-Za-z]{6}")
PLAIN = {"name": "checkout", "environment": "live"}
WRITER = frozenset({Scope.PREDICT, Scope.MODELS_READ, Scope.KEYS_READ, Scope.KEYS_WRITE})


async def create(world: World, headers: dict[str, str], **wish: Any) -> Response:
    return await world.client.post("/v1/api-keys", json=PLAIN | wish, headers=headers)


async def created(world: World, headers: dict[str, str], **wish: Any) -> dict[str, Any]:
    answer = await create(world, headers, **wish)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def list_keys(world: World, headers: dict[str, str], **query: Any) -> dict[str, Any]:
    answer = await world.client.get("/v1/api-keys", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def models(client: AsyncClient, secret: str) -> Response:
    """Make the simplest request that a key can make."""
    return await client.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})


def checksum(body: str) -> str:
    """The checksum of the contract, worked out in another way than the product does."""
    value = zlib.crc32(body.encode())
    return "".join(BASE62[value // 62**power % 62] for power in (5, 4, 3, 2, 1, 0))


async def owner(world: World, tenant: TenantUnderTest) -> dict[str, str]:
    return await world.log_in(tenant.owner_email)


# Making one


@pytest.mark.parametrize("environment", ["live", "test"])
async def test_a_key_has_exactly_the_written_form(world: World, environment: str) -> None:
    tenant = await world.tenant()
    secret = (await created(world, await owner(world, tenant), environment=environment))["secret"]
    match = WRITTEN.fullmatch(secret)
    assert match
    assert match[1] == environment
    assert secret[-6:] == checksum(secret[:-6])
    assert (await models(world.client, secret)).status_code == 200


async def test_201_with_the_secret_once_and_where_the_key_is(world: World) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    answer = await create(
        world,
        headers,
        name="  checkout ",
        scopes=["predict", "usage:read"],
        models=["iris", "wine@1"],
        allowed_cidrs=["10.0.0.0/8", "2001:db8::/32"],
        expires_at="2099-12-31T23:00:00+01:00",
        rate_limit={"per_minute": 60},
        monthly_quota=1000,
        metadata={"team": "shop"},
    )
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    secret = body.pop("secret")
    assert answer.headers["location"] == f"/v1/api-keys/{body['id']}"
    assert re.fullmatch(r"key_[0-9A-Z]{26}", body["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["created_at"])
    assert {name: body[name] for name in body.keys() - {"id", "created_at", "created_by", "previous"}} == {
        "name": "checkout",
        "environment": "live",
        "prefix": secret[: len("fc_live_") + 12],
        "last4": secret[-4:],
        "status": "active",
        "scopes": ["predict", "usage:read"],
        "models": ["iris", "wine@1"],
        "allowed_cidrs": ["10.0.0.0/8", "2001:db8::/32"],
        "rate_limit": {"per_minute": 60},
        "monthly_quota": 1000,
        "metadata": {"team": "shop"},
        "generation": 1,
        "expires_at": "2099-12-31T22:00:00.000Z",
        "revoked_at": None,
        "last_used_at": None,
    }
    read = await world.client.get(answer.headers["location"], headers=headers)
    assert read.json() == body, "the same without the secret"


async def test_a_plain_key_may_predict_and_read_models(world: World) -> None:
    tenant = await world.tenant()
    body = await created(world, await owner(world, tenant))
    assert body["scopes"] == ["models:read", "predict"]
    assert (body["models"], body["allowed_cidrs"], body["rate_limit"], body["expires_at"]) == (None,) * 4
    key = Key(id=body["id"], secret=body["secret"])
    assert (await world.predict(key)).status_code == 200


async def test_both_headers_take_a_key(world: World) -> None:
    tenant = await world.tenant()
    for headers in (
        {"X-API-Key": tenant.live.secret},
        {"Authorization": f"bearer {tenant.live.secret}"},
        {"Authorization": f"BEARER  {tenant.live.secret} "},
    ):
        assert (await world.client.get("/v1/models", headers=headers)).status_code == 200


# A5, K3: the secret stands in one answer


async def test_k3_after_its_creation_no_answer_holds_a_secret_a_hash_or_a_pepper(world: World) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    body = await created(world, headers)
    secret, lookup_id = body["secret"], body["prefix"].removeprefix("fc_live_")
    answers = [
        await world.client.get("/v1/api-keys", headers=headers),
        await world.client.get(f"/v1/api-keys/{body['id']}", headers=headers),
        await world.client.post(f"/v1/api-keys/{body['id']}/revoke", headers=headers),
        await models(world.client, secret),
        await world.client.get("/v1/usage/events", headers=headers),
        await world.client.get("/v1/audit-log", headers=headers),
        await world.client.get("/v1/me", headers=headers),
    ]
    for answer in answers:
        shown = answer.text
        assert secret not in shown
        assert secret.split(lookup_id)[1][1:33] not in shown
        assert not re.search(r"secret_hash|token_hash|pepper|secret\"", shown), shown


async def test_a5_a_key_shows_the_fields_of_the_contract_and_no_others(world: World) -> None:
    tenant = await world.tenant()
    body = await created(world, await owner(world, tenant))
    assert body.keys() - {"previous"} == {
        *("id", "name", "environment", "prefix", "last4", "status", "scopes", "models", "allowed_cidrs"),
        *("rate_limit", "monthly_quota", "metadata", "generation", "created_by", "created_at", "expires_at"),
        *("revoked_at", "last_used_at", "secret"),
    }


# What is refused


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "   "}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"name": 7}, "/name"),
        ({"environment": "prod"}, "/environment"),
        ({"environment": None}, "/environment"),
        ({"scopes": ["everything"]}, "/scopes/0"),
        ({"scopes": "predict"}, "/scopes"),
        ({"models": []}, "/models"),
        ({"models": ["iris", "../etc"]}, "/models/1"),
        ({"models": [7]}, "/models/0"),
        ({"allowed_cidrs": []}, "/allowed_cidrs"),
        ({"allowed_cidrs": ["10.0.0.0/8", "10.0.0.0/33"]}, "/allowed_cidrs/1"),
        ({"allowed_cidrs": ["10.1.2.3/8"]}, "/allowed_cidrs/0"),
        ({"allowed_cidrs": ["everywhere"]}, "/allowed_cidrs/0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-10:00"}, "/expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+10:00"}, "/expires_at"),
        ({"rate_limit": 60}, "/rate_limit"),
        ({"rate_limit": {}}, "/rate_limit/per_minute"),
        ({"rate_limit": {"per_minute": 0}}, "/rate_limit/per_minute"),
        ({"rate_limit": {"per_minute": "60"}}, "/rate_limit/per_minute"),
        ({"rate_limit": {"per_minute": 60, "per_second": 1}}, "/rate_limit"),
        ({"monthly_quota": -1}, "/monthly_quota"),
        ({"monthly_quota": 1.5}, "/monthly_quota"),
        ({"monthly_quota": 10**30}, "/monthly_quota"),
        ({"metadata": {"not a name": "x"}}, "/metadata"),
        ({"metadata": {"team": 7}}, "/metadata/team"),
        ({"metadata": {"team": "x" * 501}}, "/metadata/team"),
        ({"metadata": {f"n{number}": "x" for number in range(51)}}, "/metadata"),
    ],
)
async def test_422_points_at_the_field(world: World, wish: dict[str, Any], pointer: str) -> None:
    tenant = await world.tenant()
    answer = await create(world, await owner(world, tenant), **wish)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize(
    "field",
    [
        "tenant_id",
        "id",
        "secret",
        "created_by",
        "role",
        "used",
        "plan_id",
        "billable",
        "generation",
        "status",
        "prefix",
    ],
)
async def test_a4_unknown_and_read_only_fields_are_refused(world: World, field: str) -> None:
    tenant = await world.tenant()
    answer = await create(world, await owner(world, tenant), **{field: "x"})
    assert problem(answer) == (422, "validation-failed")


@pytest.mark.parametrize("strange", ["a\0b", "\0"])
async def test_a_name_that_not_every_database_can_hold_is_no_failure_of_ours(world: World, strange: str) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    for wish in ({"name": f"x{strange}"}, {"metadata": {"team": strange}}):
        assert (await create(world, headers, **wish)).status_code in {201, 422}


async def test_422_missing_fields_are_all_named(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.client.post("/v1/api-keys", json={}, headers=await owner(world, tenant))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/name", "/environment"]


async def test_400_malformed_request(world: World) -> None:
    tenant = await world.tenant()
    headers = {**await owner(world, tenant), "Content-Type": "application/json"}
    answer = await world.client.post("/v1/api-keys", content=b"{", headers=headers)
    assert problem(answer) == (400, "malformed-request")


# A6: nobody hands out more than they hold


async def test_a6_a_developer_may_not_grant_what_only_an_owner_holds(world: World) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(await world.member(tenant, Role.DEVELOPER))
    for scope in ("members:write", "tenant:write", "audit:read", "usage:export"):
        assert problem(await create(world, headers, scopes=["predict", scope])) == (403, "scope-exceeds-grantor")
    assert (await create(world, headers, scopes=["predict", "keys:write"])).status_code == 201


async def test_a6_a_narrowed_login_hands_out_no_more_than_itself(world: World) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(tenant.owner_email, scope="keys:write")
    assert problem(await create(world, headers, scopes=["predict"])) == (403, "scope-exceeds-grantor")
    assert (await created(world, headers))["scopes"] == [], "the default is what both hold"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.BILLING])
async def test_403_insufficient_scope_for_those_who_may_not_make_keys(world: World, role: Role) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(await world.member(tenant, role))
    assert problem(await create(world, headers)) == (403, "insufficient-scope")


@pytest.mark.parametrize("scopes", [["admin"], ["billing:close"], ["predict", "usage:all"]])
async def test_a6_no_tenants_key_holds_a_platform_scope(world: World, scopes: list[str]) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    assert problem(await create(world, headers, scopes=scopes)) == (403, "scope-exceeds-grantor")
    change = await world.client.patch(f"/v1/api-keys/{tenant.live.id}", json={"scopes": scopes}, headers=headers)
    assert problem(change) == (403, "scope-exceeds-grantor")


async def test_a6_a_key_makes_keys_no_wider_than_itself(world: World) -> None:
    tenant = await world.tenant()
    maker = await world.key(tenant, scopes=WRITER, models=("iris", "wine@1"))
    headers = maker.headers
    for wish in (
        {"scopes": ["usage:read"], "models": ["iris"]},
        {"models": ["iris", "diabetes"]},
        {"models": ["wine"]},
        {},
    ):
        assert problem(await create(world, headers, **wish)) == (403, "scope-exceeds-grantor"), wish
    child = await created(world, headers, scopes=["predict"], models=["iris"])
    assert child["created_by"] == maker.id


async def test_a6_a_keys_key_is_no_wider_in_networks_time_and_limits(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    end = clocked_world.clock.now() + timedelta(days=30)
    narrow: dict[str, Any] = {
        "allowed_cidrs": ("10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32"),
        "expires_at": end,
        "rate_per_minute": 60,
        "monthly_quota": 100,
    }
    maker = await clocked_world.key(tenant, scopes=WRITER, **narrow)
    within: dict[str, Any] = {
        "allowed_cidrs": ["10.1.0.0/16", "2001:db8:1::/48"],
        "expires_at": (end - timedelta(days=1)).isoformat(),
        "rate_limit": {"per_minute": 60},
        "monthly_quota": 100,
    }
    assert (await create(clocked_world, maker.headers, **within)).status_code == 201
    for name, wider in (
        ("allowed_cidrs", ["10.1.0.0/16", "11.0.0.0/8"]),
        ("allowed_cidrs", ["0.0.0.0/0"]),
        ("allowed_cidrs", ["8.0.0.0/6"]),
        ("allowed_cidrs", ["2001::/16"]),
        ("allowed_cidrs", None),
        ("expires_at", (end + timedelta(seconds=1)).isoformat()),
        ("expires_at", None),
        ("rate_limit", {"per_minute": 61}),
        ("rate_limit", None),
        ("monthly_quota", 101),
        ("monthly_quota", None),
    ):
        answer = await create(clocked_world, maker.headers, **within | {name: wider})
        assert problem(answer) == (403, "scope-exceeds-grantor"), (name, wider)


async def test_a6_a_test_key_makes_no_live_one(world: World) -> None:
    tenant = await world.tenant()
    test_maker = await world.key(tenant, Environment.TEST, scopes=WRITER)
    assert problem(await create(world, test_maker.headers)) == (403, "scope-exceeds-grantor")
    assert (await create(world, test_maker.headers, environment="test")).status_code == 201
    live_maker = await world.key(tenant, scopes=WRITER)
    assert (await create(world, live_maker.headers, environment="test")).status_code == 201


# How many


async def test_409_key_limit_reached_counts_what_is_not_revoked(world: World) -> None:
    tenant = await world.tenant("free")
    headers = await owner(world, tenant)
    made = [await created(world, headers) for _ in range(8)]
    assert problem(await create(world, headers)) == (409, "key-limit-reached"), "8 and the two it began with"
    await world.client.post(f"/v1/api-keys/{made[0]['id']}/revoke", headers=headers)
    assert (await create(world, headers)).status_code == 201
    assert problem(await create(world, headers)) == (409, "key-limit-reached")


async def test_of_many_at_once_exactly_as_many_are_made_as_there_are_places(world: World) -> None:
    tenant = await world.tenant("free")
    headers = await owner(world, tenant)
    answers = await asyncio.gather(*(create(world, headers) for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] * 8 + [409] * 8
    assert len((await list_keys(world, headers, limit=100))["data"]) == 10


# Reading them


async def test_keys_are_listed_newest_first_page_by_page(world: World) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    made = [(await created(world, headers, name=f"key {number}"))["id"] for number in range(5)]
    expected = [*reversed(made), tenant.test.id, tenant.live.id]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = await list_keys(world, headers, **query)
        seen += [key["id"] for key in page["data"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        assert len(page["data"]) == 3
        query["cursor"] = page["next_cursor"]
    assert seen == expected


async def test_a_page_that_ends_the_list_says_so(world: World) -> None:
    tenant = await world.tenant()
    page = await list_keys(world, await owner(world, tenant), limit=2)
    assert (len(page["data"]), page["has_more"], page["next_cursor"]) == (2, False, None)


async def test_keys_are_filtered_by_status_and_environment(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    headers = await owner(clocked_world, tenant)
    end = (clocked_world.clock.now() + timedelta(minutes=5)).isoformat()
    expired = (await created(clocked_world, headers, expires_at=end))["id"]
    revoked = (await created(clocked_world, headers, environment="test"))["id"]
    await clocked_world.client.post(f"/v1/api-keys/{revoked}/revoke", headers=headers)
    clocked_world.clock.advance(300)

    async def ids(**query: str) -> set[str]:
        return {key["id"] for key in (await list_keys(clocked_world, headers, **query))["data"]}

    everything = {tenant.live.id, tenant.test.id, expired, revoked}
    assert await ids() == everything
    assert await ids(status="active") == {tenant.live.id, tenant.test.id}
    assert await ids(status="expired") == {expired}
    assert await ids(status="revoked") == {revoked}
    assert await ids(environment="live") == {tenant.live.id, expired}
    assert await ids(status="revoked", environment="live") == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [("status", "gone"), ("environment", "prod"), ("limit", "0"), ("limit", "101"), ("limit", "x"), ("cursor", "x")],
)
async def test_422_bad_queries_are_pointed_at(world: World, name: str, value: str) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/api-keys", params={name: value}, headers=await owner(world, tenant))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [f"/query/{name}"]


async def test_a_cursor_is_good_for_its_own_list_only(world: World) -> None:
    tenant, other = await world.tenant(), await world.tenant()
    headers = await owner(world, tenant)
    cursor = (await list_keys(world, headers, limit=1))["next_cursor"]
    assert (await list_keys(world, headers, limit=1, cursor=cursor))["data"][0]["id"] == tenant.live.id
    last = "B" if cursor[0] == "A" else "A"
    attempts: list[tuple[dict[str, str], dict[str, str]]] = [
        (headers, {"cursor": last + cursor[1:]}),
        (headers, {"cursor": cursor + "AAAA"}),
        (headers, {"cursor": cursor, "environment": "live"}),
        (headers, {"cursor": cursor, "status": "active"}),
        (await owner(world, other), {"cursor": cursor}),
    ]
    for caller, query in attempts:
        answer = await world.client.get("/v1/api-keys", params=query, headers=caller)
        assert problem(answer) == (422, "validation-failed"), query
        assert pointers(answer) == ["/query/cursor"]


async def test_a1_another_tenants_key_does_not_exist(world: World) -> None:
    mine, theirs = await world.tenant(), await world.tenant()
    headers = await owner(world, mine)
    for key_id in (theirs.live.id, "key_00000000000000000000000000", "x", "' OR '1'='1", "%"):
        for method, path in (("GET", ""), ("POST", "/revoke")):
            url = f"/v1/api-keys/{key_id.replace('%', '%25')}{path}"
            assert problem(await world.client.request(method, url, headers=headers)) == (404, "not-found"), url
    assert (await models(world.client, theirs.live.secret)).status_code == 200, "and nobody revoked it"
    listed = {key["id"] for key in (await list_keys(world, headers))["data"]}
    assert listed == {mine.live.id, mine.test.id}


async def test_a_zero_character_in_a_url_is_refused_before_the_store_sees_it(world: World) -> None:
    tenant = await world.tenant()
    for url in ("/v1/api-keys/%00", "/v1/api-keys?cursor=%00", "/v1/usage/events?model=%00", "/v1/models/%00"):
        assert problem(await world.client.get(url, headers=tenant.live.headers)) == (400, "malformed-request"), url


# A9: revoked, expired, suspended


async def test_a9_a_revoked_key_is_refused_on_the_next_request_of_every_kind(world: World) -> None:
    tenant = await world.tenant()
    headers = await owner(world, tenant)
    key = await world.key(tenant, scopes=TENANT_SCOPES)

    async def use() -> list[Response]:
        return [
            await world.predict(key),
            await models(world.client, key.secret),
            await world.client.get("/v1/usage/summary", headers=key.headers),
            await create(world, key.headers),
            await world.client.get("/v1/limits", headers=key.headers),
        ]

    assert {answer.status_code for answer in await use()} == {200, 201}
    answer = await world.client.post(f"/v1/api-keys/{key.id}/revoke", headers=headers)
    assert answer.status_code == 200
    assert answer.json()["status"] == "revoked"
    for refused in await use():
        assert problem(refused) == (401, "key-revoked")


async def test_revoking_twice_keeps_the_first_instant(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    headers = await owner(clocked_world, tenant)
    path = f"/v1/api-keys/{tenant.test.id}/revoke"
    first = (await clocked_world.client.post(path, headers=headers)).json()
    clocked_world.clock.advance(60)
    assert (await clocked_world.client.post(path, headers=headers)).json()["revoked_at"] == first["revoked_at"]


async def test_a9_a_key_that_revokes_itself_is_gone(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=WRITER)
    path = f"/v1/api-keys/{key.id}/revoke"
    assert (await world.client.post(path, headers=key.headers)).status_code == 200
    assert problem(await world.client.post(path, headers=key.headers)) == (401, "key-revoked")


async def test_a_key_expires_to_the_second(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    key = await clocked_world.key(tenant, expires_at=clocked_world.clock.now() + timedelta(seconds=60))
    clocked_world.clock.advance(59.5)
    assert (await clocked_world.predict(key)).status_code == 200
    clocked_world.clock.advance(0.5)
    assert problem(await clocked_world.predict(key)) == (401, "key-expired")
    assert problem(await models(clocked_world.client, key.secret)) == (401, "key-expired")


async def test_only_whoever_knows_the_secret_learns_that_a_key_is_revoked_or_expired(
    clocked_world: ClockedWorld,
) -> None:
    tenant = await clocked_world.tenant()
    key = await clocked_world.key(tenant, expires_at=clocked_world.clock.now() + timedelta(seconds=60))
    await clocked_world.client.post(f"/v1/api-keys/{tenant.live.id}/revoke", headers=await owner(clocked_world, tenant))
    clocked_world.clock.advance(60)
    for ended in (key, tenant.live):
        guessed = write_key(Environment.LIVE, ended.secret[8:20], secrets.token_hex(16))
        assert problem(await models(clocked_world.client, guessed)) == (401, "invalid-credentials")


async def set_status(world: World, tenant: TenantUnderTest, status: TenantStatus) -> None:
    """Suspend or resume as the operator does: stored, then announced."""
    async with world.resources.store.unit_of_work() as unit:
        changed = await unit.tenants.set_status(tenant.id, status)
    await world.resources.admission.announce(tenant.id, None, changed.version)


async def test_a9_a_suspended_tenants_keys_are_refused_on_the_next_request_and_come_back(world: World) -> None:
    tenant = await world.tenant()
    assert (await world.predict(tenant.live)).status_code == 200
    await set_status(world, tenant, TenantStatus.SUSPENDED)
    assert problem(await world.predict(tenant.live)) == (403, "tenant-suspended")
    assert problem(await models(world.client, tenant.live.secret)) == (403, "tenant-suspended")
    await set_status(world, tenant, TenantStatus.ACTIVE)
    assert (await world.predict(tenant.live)).status_code == 200
    assert (await models(world.client, tenant.live.secret)).status_code == 200


# What is no key


async def test_a_wrong_secret_is_refused(world: World) -> None:
    tenant = await world.tenant()
    lookup_id = tenant.live.secret[8:20]
    guessed = write_key(Environment.LIVE, lookup_id, secrets.token_hex(16))
    assert problem(await models(world.client, guessed)) == (401, "invalid-credentials")
    other = write_key(Environment.TEST, lookup_id, tenant.live.secret[21:53])
    assert problem(await models(world.client, other)) == (401, "invalid-credentials"), "a live key is no test key"
    unknown, _ = mint_key(Environment.LIVE)
    assert problem(await models(world.client, unknown)) == (401, "invalid-credentials")


class CountingDirectory:
    """A directory that knows nothing and counts how often it is asked."""

    def __init__(self) -> None:
        self.questions = 0

    def holds(self, lookup_id: str) -> bool:
        return False

    def cached(self, lookup_id: str) -> KeyGrant | None:
        return None

    async def find(self, lookup_id: str) -> KeyGrant | None:
        self.questions += 1
        return None

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        return await self.find(lookup_id)

    async def recheck(self, lookup_id: str) -> KeyGrant | None:
        return await self.find(lookup_id)


@pytest.fixture
async def counted(world: World) -> AsyncIterator[CountingDirectory]:
    directory = CountingDirectory()
    world.app.dependency_overrides[deps.get_key_directory] = lambda: directory
    yield directory
    del world.app.dependency_overrides[deps.get_key_directory]


async def test_k1_a_wrong_checksum_is_refused_without_asking_anyone(world: World, counted: CountingDirectory) -> None:
    good, _ = mint_key(Environment.LIVE)
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    for credential in (wrong, good[:-1], good + "0", good.lower(), good.replace("live", "test"), "fc_live_", "x"):
        for answer in (
            await models(world.client, credential),
            await world.client.post("/v1/predict", json={}, headers={"X-API-Key": credential}),
        ):
            assert problem(answer) == (401, "invalid-credentials")
    assert counted.questions == 0
    await models(world.client, good)
    assert counted.questions == 1, "the fake is really asked"


async def test_k5_keys_with_a_common_beginning_are_different_callers(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    lookup_id = first.live.secret[8:20]
    twin = write_key(Environment.LIVE, lookup_id[:-1] + ("0" if lookup_id[-1] != "0" else "1"), "0" * 32)
    assert twin[:19] == first.live.secret[:19]
    assert (await models(world.client, first.live.secret)).status_code == 200
    assert problem(await models(world.client, twin)) == (401, "invalid-credentials")
    impostor = write_key(Environment.LIVE, lookup_id, second.live.secret[21:53])
    assert impostor[:21] == first.live.secret[:21]
    assert problem(await models(world.client, impostor)) == (401, "invalid-credentials")
    assert (await models(world.client, first.live.secret)).status_code == 200


@pytest.mark.parametrize(
    "name", ["api_key", "API_KEY", "key", "token", "access_token", "x-api-key", "anything", "cursor"]
)
async def test_k6_a_key_in_the_url_is_refused_and_not_logged(
    world: World, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    tenant = await world.tenant()
    secret = tenant.live.secret
    with caplog.at_level("DEBUG"):
        for url in (
            f"/v1/models?{name}={secret}",
            f"/livez?x=1&{name}=%66c_live_{secret[8:]}",
            f"/v1/predict?{secret}",
        ):
            answer = await world.client.request("POST" if "predict" in url else "GET", url, headers=tenant.live.headers)
            assert problem(answer) == (400, "key-in-url"), url
            assert secret[8:] not in answer.text
    written = [record for record in caplog.records if record.name.startswith("forecourt")]
    assert written, "the refusals are logged"
    for record in written:
        assert secret[8:] not in repr(record.__dict__)


# K9: where from


async def test_k9_a_key_bound_to_networks_is_refused_from_elsewhere(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, allowed_cidrs=("10.0.0.0/8", "2001:db8:7::/48"))
    for address, allowed in (
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8:7::1", True),
        ("11.0.0.1", False),
        ("::ffff:11.0.0.1", False),
        ("2001:db8:8::1", False),
    ):
        async with calling_from(world, address) as client:
            answers = [
                await models(client, key.secret),
                await client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=key.headers),
            ]
        for answer in answers:
            if allowed:
                assert answer.status_code == 200, address
            else:
                assert problem(answer) == (403, "ip-not-allowed"), address


FORWARDED = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP"]


@pytest.mark.parametrize("header", FORWARDED)
async def test_k9_without_a_trusted_proxy_no_header_moves_a_caller(world: World, header: str) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, allowed_cidrs=("10.0.0.0/8",))
    async with calling_from(world, "192.0.2.1") as client:
        answer = await client.get("/v1/models", headers={**key.headers, header: "10.1.2.3"})
        assert problem(answer) == (403, "ip-not-allowed")


@pytest.fixture(scope="module")
async def behind_proxies(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    proxies = "192.0.2.0/24, 2001:db8:ffff::/48"
    settings = embedded_settings(tmp_path_factory.mktemp("proxies"), trusted_proxies=proxies)
    async with running(settings, "proxies") as world:
        yield world


@pytest.mark.parametrize(
    ("peer", "forwarded", "allowed"),
    [
        ("192.0.2.1", "10.1.2.3", True),
        ("192.0.2.1", "198.51.100.7", False),
        ("192.0.2.1", "10.1.2.3, 198.51.100.7", False),
        ("192.0.2.1", "198.51.100.7, 10.1.2.3", True),
        ("192.0.2.1", "10.1.2.3, 192.0.2.9", True),
        ("192.0.2.1", "198.51.100.7, 192.0.2.9, 192.0.2.8", False),
        ("192.0.2.1", "::ffff:10.1.2.3", True),
        ("::ffff:192.0.2.1", "10.1.2.3", True),
        ("2001:db8:ffff::1", "10.1.2.3", True),
        ("198.51.100.7", "10.1.2.3", False),
        ("192.0.2.1", "10.1.2.3, nonsense", False),
        ("192.0.2.1", "10.1.2.3:443", False),
        ("192.0.2.1", "", False),
        ("10.1.2.3", "198.51.100.7", True),
    ],
)
async def test_k9_behind_trusted_proxies_the_right_most_other_hop_counts(
    behind_proxies: World, peer: str, forwarded: str, allowed: bool
) -> None:
    tenant = await behind_proxies.tenant()
    key = await behind_proxies.key(tenant, allowed_cidrs=("10.0.0.0/8",))
    async with calling_from(behind_proxies, peer) as client:
        answer = await client.get("/v1/models", headers={**key.headers, "X-Forwarded-For": forwarded})
    if allowed:
        assert answer.status_code == 200
    else:
        assert problem(answer) == (403, "ip-not-allowed")


async def test_k9_several_forwarding_headers_are_one_list(behind_proxies: World) -> None:
    tenant = await behind_proxies.tenant()
    key = await behind_proxies.key(tenant, allowed_cidrs=("10.0.0.0/8",))
    lines = [("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-For", "198.51.100.7"), *key.headers.items()]
    async with calling_from(behind_proxies, "192.0.2.1") as client:
        answer = await client.get("/v1/models", headers=lines)
    assert problem(answer) == (403, "ip-not-allowed")


# What is stored


async def stored_bytes(world: World) -> bytes:
    """Return everything that the database and Redis hold."""
    tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if world.shape == "server":
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    found = [repr(row).encode() for [table] in world.rows(tables) for row in world.rows(f'SELECT * FROM "{table}"')]
    if world.shape == "embedded":
        world.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        found.append(Path(make_url(world.database_url).database or "").read_bytes())
    if world.redis_url is not None:
        async with Redis.from_url(world.redis_url) as redis:
            async for key in redis.scan_iter():
                found += [key, await redis.dump(key) or b""]
    return b"\n".join(found)


async def test_k2_neither_the_database_nor_redis_holds_a_secret(world: World) -> None:
    tenant = await world.tenant()
    tokens = (await world.token(username=tenant.owner_email, password="seven purple elephants dance")).json()
    renewed = (await world.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])).json()
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    made = await created(world, headers)
    key = Key(id=made["id"], secret=made["secret"])
    await world.predict(key, headers={"Idempotency-Key": "order-1"})
    await world.predict(tenant.test)
    await world.client.get("/v1/usage/events", headers=headers)
    held = await stored_bytes(world)
    assert made["id"].encode() in held, "the dump is a real one"
    for secret in (made["secret"], tenant.live.secret, tenant.test.secret):
        assert secret.encode() not in held
        assert secret[21:53].encode() not in held
        assert secret[21:40].encode() not in held
    for token in (tokens, renewed):
        assert token["refresh_token"].encode() not in held
        assert token["access_token"].encode() not in held
    assert b"seven purple elephants" not in held
