"""Limits over HTTP, in both shapes."""

import re

import pytest
from httpx import Response

from backend.domain.scopes import Role, Scope
from tests.api.conftest import IRIS, KEY_SCOPES, Drain, World

pytestmark = pytest.mark.anyio


async def test_a_key_sees_its_plan_its_limits_and_what_is_left(world: World) -> None:
    tenant = await world.tenant("free")
    key = await world.key(tenant, scopes=KEY_SCOPES | {Scope.LIMITS_READ}, rate_per_minute=30, monthly_quota=100)
    since = Drain()
    await world.predict(key, IRIS * 10)
    answer = await world.client.get("/v1/limits", headers=key.headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["plan"]["name"], body["plan"]["version"], body["environment"]) == ("free", 1, "live")
    rates = body["rate_limits"]
    assert [(each["scope"], each["per_minute"]) for each in rates] == [("key", 30), ("tenant", 60)]
    assert since.within(rates[0]["remaining"], 20, 30)
    assert since.within(rates[1]["remaining"], 50, 60)
    quota = body["quota"]
    assert (quota["limit"], quota["used"], quota["reserved"], quota["remaining"]) == (1000, 10, 0, 990)
    assert quota["mode"] == "hard"
    assert quota["resets_at"].endswith("-01T00:00:00.000Z")
    assert body["key_quota"]["remaining"] == 90


async def test_looking_spends_nothing(world: World) -> None:
    tenant = await world.tenant("free")
    headers = await world.log_in(tenant.owner_email)
    for _ in range(3):
        answer = await world.client.get("/v1/limits", headers=headers)
    assert answer.json()["rate_limits"] == [
        {"scope": "tenant", "model": None, "per_minute": 60, "remaining": 60, "resets_in_s": 0}
    ]
    assert answer.json()["quota"]["used"] == 0


async def test_no_cap_is_null(world: World) -> None:
    tenant = await world.tenant("enterprise")
    answer = await world.client.get("/v1/limits", headers=await world.log_in(tenant.owner_email))
    assert (answer.json()["quota"]["limit"], answer.json()["quota"]["remaining"]) == (None, None)


async def test_403_without_the_scope(world: World) -> None:
    tenant = await world.tenant()
    narrow = await world.key(tenant, scopes=frozenset({Scope.PREDICT}))
    answer = await world.client.get("/v1/limits", headers=narrow.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient-scope")
    viewer = await world.log_in(await world.member(tenant, Role.VIEWER))
    assert (await world.client.get("/v1/limits", headers=viewer)).status_code == 200


# Lowering


async def lower(world: World, headers: dict[str, str], **body: object) -> Response:
    return await world.client.put("/v1/limits", json=body, headers=headers)


async def test_a_lowered_limit_counts_on_the_next_request_and_null_lifts_it(world: World) -> None:
    tenant = await world.tenant("pro")
    owner = await world.log_in(tenant.owner_email)
    assert (await world.predict(tenant.live)).headers["ratelimit-policy"].count("q=6000") == 2
    answer = await lower(world, owner, rate_limit={"per_minute": 5}, monthly_quota=3)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"key_id": None, "rate_limit": {"per_minute": 5}, "monthly_quota": 3, "models": {}}
    assert (await world.predict(tenant.live, IRIS * 6)).json()["code"] == "rate-limited"
    assert (await world.predict(tenant.live, IRIS * 3)).json()["code"] == "quota-exceeded"
    assert (await lower(world, owner, rate_limit=None, monthly_quota=None)).status_code == 200
    assert (await world.predict(tenant.live, IRIS * 6)).status_code == 200


async def test_a_model_has_a_limit_of_its_own_decided_with_the_others(world: World) -> None:
    tenant = await world.tenant("pro")
    owner = await world.log_in(tenant.owner_email)
    assert (await lower(world, owner, models={"iris": {"per_minute": 4}})).status_code == 200
    since = Drain()
    answer = await world.predict(tenant.live, IRIS * 3)
    assert '"model";q=4;w=60' in answer.headers["ratelimit-policy"]
    assert answer.headers["ratelimit"].startswith('"model";r=1;')
    refused = await world.predict(tenant.live, IRIS * 3)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    [left] = re.findall('"tenant";r=(\\d+);', refused.headers["ratelimit"])
    assert since.within(int(left), 5997, 6000), "a refusal spends nothing of the others"
    wine = await world.predict(tenant.live, [[1.0] * 13], model="wine")
    assert (wine.status_code, '"model"' in wine.headers["ratelimit"]) == (200, False)
    limits = (await world.client.get("/v1/limits", headers=owner)).json()["rate_limits"]
    assert [each["per_minute"] for each in limits if each["model"] == "iris"] == [4]
    assert (await lower(world, owner, models={"iris": None})).json()["models"] == {}
    assert (await world.predict(tenant.live, IRIS * 3)).status_code == 200


async def test_422_above_the_plan_and_404_for_anothers_key(world: World) -> None:
    tenant, other = await world.tenant("free"), await world.tenant("free")
    owner = await world.log_in(tenant.owner_email)
    answer = await lower(
        world, owner, rate_limit={"per_minute": 61}, monthly_quota=1001, models={"iris": {"per_minute": 61}}
    )
    pointers = [each["pointer"] for each in answer.json()["errors"]]
    assert answer.status_code == 422
    assert pointers == ["/rate_limit/per_minute", "/monthly_quota", "/models/iris/per_minute"]
    assert (await lower(world, owner, key_id=other.live.id, monthly_quota=1)).status_code == 404
    assert (await lower(world, owner, key_id=tenant.live.id, models={})).status_code == 422


async def test_one_keys_limit_is_lowered_and_only_a_writer_of_keys_raises_it(world: World) -> None:
    tenant = await world.tenant("pro")
    owner = await world.log_in(tenant.owner_email)
    program = await world.key(tenant, scopes=frozenset({Scope.LIMITS_WRITE}))
    assert (await lower(world, program.headers, key_id=tenant.live.id, rate_limit={"per_minute": 2})).status_code == 200
    assert (await world.predict(tenant.live, IRIS * 3)).json()["code"] == "rate-limited"
    raised = await lower(world, program.headers, key_id=tenant.live.id, rate_limit=None)
    assert (raised.status_code, raised.json()["code"]) == (403, "insufficient-scope")
    assert (await lower(world, owner, key_id=tenant.live.id, rate_limit=None)).status_code == 200
    assert (await world.predict(tenant.live, IRIS * 3)).status_code == 200


async def test_g1_each_change_is_in_the_audit_log_and_the_same_again_is_not(world: World) -> None:
    tenant = await world.tenant("pro")
    owner = await world.log_in(tenant.owner_email)
    for _ in range(2):
        await lower(world, owner, monthly_quota=7)
    entries = (await world.client.get("/v1/audit-log", headers=owner)).json()["data"]
    changes = [entry for entry in entries if entry["action"] == "limits.updated"]
    assert [(entry["before"]["monthly_quota"], entry["after"]["monthly_quota"]) for entry in changes] == [(None, 7)]
