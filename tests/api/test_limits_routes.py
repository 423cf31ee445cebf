"""Limits over HTTP, in both shapes."""

import pytest

from backend.domain.scopes import Role, Scope
from tests.api.conftest import IRIS, KEY_SCOPES, World

pytestmark = pytest.mark.anyio


async def test_a_key_sees_its_plan_its_limits_and_what_is_left(world: World) -> None:
    tenant = await world.tenant("free")
    key = await world.key(tenant, scopes=KEY_SCOPES | {Scope.LIMITS_READ}, rate_per_minute=30, monthly_quota=100)
    await world.predict(key, IRIS * 10)
    answer = await world.client.get("/v1/limits", headers=key.headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["plan"]["name"], body["plan"]["version"], body["environment"]) == ("free", 1, "live")
    assert [(each["scope"], each["per_minute"], each["remaining"]) for each in body["rate_limits"]] == [
        ("key", 30, 20),
        ("tenant", 60, 50),
    ]
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
    assert answer.json()["rate_limits"] == [{"scope": "tenant", "per_minute": 60, "remaining": 60, "resets_in_s": 0}]
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
