"""Subscriptions whose limits only report, over HTTP, in both shapes."""

from typing import Any

import pytest

from tests.api.conftest import IRIS, TenantUnderTest, World
from tests.api.operators import platform_program, subscribed
from tests.api.test_platform import PLANS, TENANTS, get, made, terms
from tests.api.test_predictions import pointers, problem
from tests.api.trails import trail

pytestmark = pytest.mark.anyio


def shadow_refusals(world: World, reason: str) -> float:
    """What was let through in shadow so far, by reason; the world is shared with other tests."""
    metrics: Any = world.resources.metrics
    return float(metrics.registry.get_sample_value("forecourt_shadow_refusals_total", {"reason": reason}) or 0.0)


async def small_plan(world: World, tenant: TenantUnderTest, **body: Any) -> dict[str, Any]:
    """Put a tenant on a plan of four rows a minute and six a month; return the standing."""
    operator = await platform_program(world)
    plan = await made(world, operator, PLANS, terms(rate_per_minute=4, monthly_quota=6, quota_mode="hard"))
    answer = await subscribed(world, operator, tenant, plan["id"], **body)
    assert answer.status_code == 200, answer.text
    standing: dict[str, Any] = answer.json()
    return standing


async def test_in_shadow_nothing_is_refused_and_headers_tell_the_truth(world: World) -> None:
    tenant = await world.tenant("enterprise")
    standing = await small_plan(world, tenant, enforcement="shadow")
    assert standing["current"]["enforcement"] == "shadow"
    rates, quotas = [shadow_refusals(world, reason) for reason in ("rate-limited", "quota-exceeded")]
    for rows, left in ((4, 2), (1, 1), (2, 0)):
        answer = await world.predict(tenant.live, IRIS * rows)
        assert answer.status_code == 200, answer.text
        assert answer.headers["ratelimit"].split(", ")[0].split(";")[1] == "r=0"
        assert answer.headers["x-quota-remaining"] == str(left)
        assert "retry-after" not in answer.headers
    assert (answer.headers["x-quota-used"], answer.headers["x-quota-limit"]) == ("7", "6")
    assert shadow_refusals(world, "rate-limited") == rates + 2
    # The month's quota is not asked first: a minute that is over is what the caller would have been told.
    assert shadow_refusals(world, "quota-exceeded") == quotas


async def test_what_passes_in_shadow_is_metered(world: World) -> None:
    tenant = await world.tenant("enterprise")
    await small_plan(world, tenant, enforcement="shadow")
    for _ in range(3):
        assert (await world.predict(tenant.live, IRIS * 4)).status_code == 200
    owner = await world.log_in(tenant.owner_email)
    events = (await world.client.get("/v1/usage/events", headers=owner)).json()["data"]
    assert sum(event["units"] for event in events) == 12
    limits = (await world.client.get("/v1/limits", headers=owner)).json()
    assert (limits["enforcement"], limits["quota"]["mode"]) == ("shadow", "shadow")
    assert (limits["quota"]["limit"], limits["quota"]["remaining"]) == (6, 0)


async def test_users_are_in_shadow_as_their_tenants_keys_are(world: World) -> None:
    tenant = await world.tenant("enterprise")
    await small_plan(world, tenant, enforcement="shadow")
    owner = await world.log_in(tenant.owner_email)
    body = {"model": "iris", "inputs": IRIS * 5}
    assert (await world.client.post("/v1/predict", json=body, headers=owner)).status_code == 200


async def test_enforcement_changes_count_on_the_next_request_and_are_audited(world: World) -> None:
    tenant, operator = await world.tenant("enterprise"), await platform_program(world)
    plan = (await small_plan(world, tenant))["current"]["plan"]["id"]
    assert problem(await world.predict(tenant.live, IRIS * 5)) == (429, "rate-limited")
    await subscribed(world, operator, tenant, plan, enforcement="shadow")
    assert (await world.predict(tenant.live, IRIS * 5)).status_code == 200
    records = len(await trail(world, tenant.id))
    await subscribed(world, operator, tenant, plan, enforcement="shadow")
    assert len(await trail(world, tenant.id)) == records, "the same again changes nothing"
    standing = (await subscribed(world, operator, tenant, plan)).json()
    assert standing["current"]["enforcement"] == "enforce", "what is left out is enforced"
    assert problem(await world.predict(tenant.live, IRIS * 5)) == (429, "rate-limited")
    last = (await trail(world, tenant.id))[-1].entry
    assert (last.before["current"]["enforcement"], last.after["current"]["enforcement"]) == ("shadow", "enforce")


async def test_l7_shadow_lets_nobody_past_anything_but_limits(world: World) -> None:
    tenant, operator = await world.tenant("enterprise"), await platform_program(world)
    await small_plan(world, tenant, enforcement="shadow")
    key = await world.key(tenant, models=("wine",))
    assert problem(await world.predict(key)) == (403, "model-not-allowed")
    suspended = await world.client.post(f"{TENANTS}/{tenant.id}/suspend", headers=operator)
    assert suspended.status_code == 200
    assert problem(await world.predict(tenant.live)) == (403, "tenant-suspended")


async def test_422_an_enforcement_that_is_none(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    answer = await subscribed(world, operator, tenant, "pro", enforcement="off")
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/enforcement"]


# A plan's limits for single models


async def test_a_plans_limit_for_a_model_counts_beside_the_others(world: World) -> None:
    tenant, operator = await world.tenant("enterprise"), await platform_program(world)
    plan = await made(world, operator, PLANS, terms(models={"iris": {"per_minute": 4}}))
    assert plan["models"] == {"iris": {"per_minute": 4}}
    assert (await get(world, operator, f"{PLANS}/{plan['id']}")).json() == plan
    await subscribed(world, operator, tenant, plan["id"])
    answer = await world.predict(tenant.live, IRIS * 3)
    assert answer.headers["ratelimit"].startswith('"model";r=1;')
    assert problem(await world.predict(tenant.live, IRIS * 2)) == (429, "rate-limited")
    assert (await world.predict(tenant.live, [[1.0] * 13] * 5, model="wine")).status_code == 200


async def test_of_the_plans_and_the_tenants_limit_for_a_model_the_lower_holds(world: World) -> None:
    tenant, operator = await world.tenant("enterprise"), await platform_program(world)
    plan = await made(world, operator, PLANS, terms(models={"iris": {"per_minute": 40}}))
    await subscribed(world, operator, tenant, plan["id"])
    owner = await world.log_in(tenant.owner_email)
    path = "/v1/limits"
    above = await world.client.put(path, json={"models": {"iris": {"per_minute": 41}}}, headers=owner)
    assert problem(above) == (422, "validation-failed")
    assert pointers(above) == ["/models/iris/per_minute"]
    for sent, holds in (({"per_minute": 7}, 7), (None, 40)):
        answer = await world.client.put(path, json={"models": {"iris": sent}}, headers=owner)
        assert answer.status_code == 200, answer.text
        limits = (await world.client.get(path, headers=owner)).json()["rate_limits"]
        assert [each["per_minute"] for each in limits if each["model"] == "iris"] == [holds]
    smaller = await made(world, operator, PLANS, terms(models={"iris": {"per_minute": 2}}))
    await world.client.put(path, json={"models": {"iris": {"per_minute": 30}}}, headers=owner)
    await subscribed(world, operator, tenant, smaller["id"])
    assert problem(await world.predict(tenant.live, IRIS * 3)) == (429, "rate-limited")


@pytest.mark.parametrize(
    ("models", "pointer"),
    [
        ({"iris": {"per_minute": 601}}, "/models/iris/per_minute"),
        ({"iris": {"per_minute": 0}}, "/models/iris/per_minute"),
        ({"iris": 5}, "/models/iris"),
        ([], "/models"),
    ],
    ids=["above the plan", "nothing", "no object", "a list"],
)
async def test_422_a_plan_whose_models_make_no_sense(world: World, models: Any, pointer: str) -> None:
    answer = await world.client.post(PLANS, json=terms(models=models), headers=await platform_program(world))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]
