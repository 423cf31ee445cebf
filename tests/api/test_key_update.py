"""Changing an API key over HTTP, in both shapes: only what is sent, never beyond the changer, at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import Response

from backend.domain.scopes import Role, Scope
from tests.api.conftest import KEY_SCOPES, Key, TenantUnderTest, World
from tests.api.test_predictions import pointers, problem

pytestmark = pytest.mark.anyio

WRITER = KEY_SCOPES | {Scope.KEYS_READ, Scope.KEYS_WRITE}
READ_ONLY = (
    "id",
    "environment",
    "prefix",
    "last4",
    "status",
    "generation",
    "created_by",
    "created_at",
    "revoked_at",
    "last_used_at",
    "previous",
    "secret",
    "secret_hash",
    "tenant_id",
    "pepper_version",
    "version",
)


async def change(world: World, headers: dict[str, str], key: Key, **fields: Any) -> Response:
    return await world.client.patch(f"/v1/api-keys/{key.id}", json=fields, headers=headers)


async def shown(world: World, headers: dict[str, str], key: Key) -> dict[str, Any]:
    body: dict[str, Any] = (await world.client.get(f"/v1/api-keys/{key.id}", headers=headers)).json()
    return body


async def audited(world: World, headers: dict[str, str], key: Key) -> list[dict[str, Any]]:
    answer = await world.client.get("/v1/audit-log", params={"target_id": key.id}, headers=headers)
    records: list[dict[str, Any]] = answer.json()["data"]
    return records


async def owner_of(world: World) -> tuple[TenantUnderTest, dict[str, str]]:
    tenant = await world.tenant()
    return tenant, await world.log_in(tenant.owner_email)


async def test_200_only_what_is_sent_changes(world: World) -> None:
    tenant, owner = await owner_of(world)
    before = await shown(world, owner, tenant.live)
    answer = await change(world, owner, tenant.live, name="renamed")
    assert answer.status_code == 200, answer.text
    assert answer.json() == before | {"name": "renamed"}
    assert await shown(world, owner, tenant.live) == before | {"name": "renamed"}


async def test_every_field_can_be_changed_and_lifted_again(world: World) -> None:
    tenant, owner = await owner_of(world)
    expires_at = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    restrictions = {
        "models": ["iris", "wine@1"],
        "allowed_cidrs": ["10.0.0.0/8"],
        "expires_at": expires_at.isoformat(),
        "rate_limit": {"per_minute": 7},
        "monthly_quota": 0,
    }
    fields = {"name": "n", "scopes": ["models:read"], "metadata": {"team": "a"}, **restrictions}
    answer = await change(world, owner, tenant.live, **fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {name: body[name] for name in fields} == fields | {
        "expires_at": expires_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    }
    lifted = (await change(world, owner, tenant.live, **dict.fromkeys(restrictions))).json()
    assert {name: lifted[name] for name in restrictions} == dict.fromkeys(restrictions)
    assert (lifted["name"], lifted["scopes"], lifted["metadata"]) == ("n", ["models:read"], {"team": "a"})


async def test_a9_a_change_counts_on_the_next_request(world: World) -> None:
    tenant, owner = await owner_of(world)
    assert (await world.predict(tenant.live)).status_code == 200
    await change(world, owner, tenant.live, models=["wine"])
    assert problem(await world.predict(tenant.live)) == (403, "model-not-allowed")
    await change(world, owner, tenant.live, models=None, scopes=["models:read"])
    assert problem(await world.predict(tenant.live)) == (403, "insufficient-scope")
    await change(world, owner, tenant.live, scopes=["predict"], allowed_cidrs=["192.0.2.0/24"])
    assert problem(await world.predict(tenant.live)) == (403, "ip-not-allowed")
    await change(world, owner, tenant.live, allowed_cidrs=None, rate_limit={"per_minute": 1})
    assert problem(await world.predict(tenant.live, [[5.0, 3.0, 1.0, 0.1]] * 2)) == (429, "rate-limited")
    await change(world, owner, tenant.live, rate_limit=None, monthly_quota=1)
    assert problem(await world.predict(tenant.live, [[5.0, 3.0, 1.0, 0.1]] * 2)) == (429, "quota-exceeded")
    await change(world, owner, tenant.live, monthly_quota=None)
    assert (await world.predict(tenant.live)).status_code == 200


async def test_g1_one_audit_record_a_change_and_none_without_one(world: World) -> None:
    tenant, owner = await owner_of(world)
    await change(world, owner, tenant.live, name="once")
    await change(world, owner, tenant.live, name="once")
    assert (await change(world, owner, tenant.live)).status_code == 200
    assert problem(await change(world, owner, tenant.live, name="")) == (422, "validation-failed")
    updates = [each for each in await audited(world, owner, tenant.live) if each["action"] == "api-key.updated"]
    assert [(each["before"]["name"], each["after"]["name"]) for each in updates] == [("key", "once")]
    assert tenant.live.secret not in str(updates)


@pytest.mark.parametrize("field", READ_ONLY)
async def test_a4_read_only_fields_are_refused(world: World, field: str) -> None:
    tenant, owner = await owner_of(world)
    before = await shown(world, owner, tenant.live)
    answer = await change(world, owner, tenant.live, name="other", **{field: before.get(field, "x")})
    assert problem(answer) == (422, "validation-failed")
    assert await shown(world, owner, tenant.live) == before


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": None}, "/name"),
        ({"name": " "}, "/name"),
        ({"scopes": None}, "/scopes"),
        ({"scopes": ["no-such"]}, "/scopes/0"),
        ({"models": []}, "/models"),
        ({"models": ["no model!"]}, "/models/0"),
        ({"allowed_cidrs": ["10.0.0.1/8"]}, "/allowed_cidrs/0"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "/expires_at"),
        ({"rate_limit": {"per_minute": 0}}, "/rate_limit/per_minute"),
        ({"monthly_quota": -1}, "/monthly_quota"),
        ({"metadata": None}, "/metadata"),
        ({"metadata": {"no name!": "x"}}, "/metadata"),
    ],
)
async def test_422_a_field_that_makes_no_sense(world: World, fields: dict[str, Any], pointer: str) -> None:
    tenant, owner = await owner_of(world)
    answer = await change(world, owner, tenant.live, **fields)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


async def test_409_a_revoked_key_stays_as_it_was(world: World) -> None:
    tenant, owner = await owner_of(world)
    await world.client.post(f"/v1/api-keys/{tenant.live.id}/revoke", headers=owner)
    before = await shown(world, owner, tenant.live)
    assert problem(await change(world, owner, tenant.live, name="other")) == (409, "key-revoked")
    assert await shown(world, owner, tenant.live) == before


async def test_an_expired_key_can_be_renamed_and_given_more_time(world: World) -> None:
    tenant, owner = await owner_of(world)
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    key = await world.key(tenant, expires_at=soon)
    while (await shown(world, owner, key))["status"] == "active":
        pass
    assert (await change(world, owner, key, name="late")).status_code == 200
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert (await change(world, owner, key, expires_at=later)).json()["status"] == "active"
    assert (await world.predict(key)).status_code == 200


async def test_a6_no_field_can_be_widened_beyond_the_changer(world: World) -> None:
    tenant = await world.tenant()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    bounds: dict[str, Any] = {
        "models": ("iris",),
        "allowed_cidrs": (f"{world.address}/128",),
        "expires_at": tomorrow,
        "rate_per_minute": 10,
        "monthly_quota": 100,
    }
    writer = await world.key(tenant, scopes=WRITER, **bounds)
    target = await world.key(tenant, **bounds)
    for fields in (
        {"scopes": ["predict", "tenant:write"]},
        {"models": ["wine"]},
        {"models": None},
        {"allowed_cidrs": ["::/0"]},
        {"allowed_cidrs": None},
        {"expires_at": (tomorrow + timedelta(days=1)).isoformat()},
        {"expires_at": None},
        {"rate_limit": {"per_minute": 11}},
        {"rate_limit": None},
        {"monthly_quota": 101},
        {"monthly_quota": None},
    ):
        answer = await change(world, writer.headers, target, **fields)
        assert problem(answer) == (403, "scope-exceeds-grantor"), fields
    narrower = {"scopes": ["predict"], "rate_limit": {"per_minute": 1}, "monthly_quota": 1}
    assert (await change(world, writer.headers, target, **narrower)).status_code == 200


async def test_a6_a_key_that_is_wider_already_can_be_renamed_and_nothing_else(world: World) -> None:
    tenant = await world.tenant()
    wide = await world.key(tenant, scopes=frozenset({Scope.TENANT_WRITE}))
    developer = await world.log_in(await world.member(tenant, Role.DEVELOPER))
    assert (await change(world, developer, wide, name="theirs", metadata={"a": "b"})).status_code == 200
    answer = await change(world, developer, wide, allowed_cidrs=None)
    assert problem(answer) == (403, "scope-exceeds-grantor")


async def test_403_without_the_scope(world: World) -> None:
    tenant = await world.tenant()
    assert problem(await change(world, tenant.live.headers, tenant.live, name="x")) == (403, "insufficient-scope")


async def test_a1_404_another_tenants_key(world: World) -> None:
    tenant, _ = await owner_of(world)
    _, other = await owner_of(world)
    assert problem(await change(world, other, tenant.live, name="x")) == (404, "not-found")
