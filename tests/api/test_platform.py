"""The operator's routes: tenants, plans and who is on which, in both shapes."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from httpx import Response

from backend.domain.audit import PLATFORM_CHAIN
from backend.domain.plans import seed_plans
from backend.domain.scopes import PlatformRole
from tests.api.conftest import ClockedWorld, World, a_new_number
from tests.api.operators import Headers, platform_person, platform_program, subscribed
from tests.api.test_predictions import pointers, problem
from tests.api.trails import trail

pytestmark = pytest.mark.anyio

TENANTS, PLANS = "/v1/admin/tenants", "/v1/admin/plans"


def a_slug() -> str:
    return f"acme-{a_new_number()}"


def terms(**changes: Any) -> dict[str, Any]:
    return {"name": f"plan-{a_new_number()}", "rate_per_minute": 600, **changes}


async def made(world: World, operator: Headers, path: str, body: dict[str, Any], once: str = "") -> dict[str, Any]:
    answer = await world.client.post(path, json=body, headers=operator | ({"Idempotency-Key": once} if once else {}))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{path}/{found['id']}"
    return found


async def get(world: World, operator: Headers, path: str, **query: Any) -> Response:
    return await world.client.get(path, params=query, headers=operator)


# Tenants


@pytest.mark.parametrize("sign_in", [platform_person, platform_program])
async def test_the_operator_creates_a_tenant(world: World, sign_in: Any) -> None:
    operator = await sign_in(world)
    slug = a_slug()
    tenant = await made(world, operator, TENANTS, {"slug": slug, "name": "Acme Inc.", "plan": "pro"})
    assert tenant["id"].startswith("ten_")
    assert (tenant["slug"], tenant["name"], tenant["status"]) == (slug, "Acme Inc.", "active")
    assert (await get(world, operator, f"{TENANTS}/{tenant['id']}")).json() == tenant
    standing = (await get(world, operator, f"{TENANTS}/{tenant['id']}/subscription")).json()
    assert standing["tenant_id"] == tenant["id"]
    assert (standing["current"]["plan"]["name"], standing["following"]) == ("pro", None)


async def test_a_tenant_begins_on_the_free_plan_under_its_slug_by_default(world: World) -> None:
    operator = await platform_program(world)
    slug = a_slug()
    tenant = await made(world, operator, TENANTS, {"slug": slug})
    standing = (await get(world, operator, f"{TENANTS}/{tenant['id']}/subscription")).json()
    assert (tenant["name"], standing["current"]["plan"]["name"]) == (slug, "free")


async def test_409_the_slug_is_taken(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    answer = await world.client.post(TENANTS, json={"slug": tenant.slug}, headers=operator)
    assert problem(answer) == (409, "already-exists")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/slug"),
        ({"slug": "No Slug"}, "/slug"),
        ({"slug": "-a"}, "/slug"),
        ({"slug": "a\n"}, "/slug"),
        ({"slug": "a", "name": ""}, "/name"),
        ({"slug": "a", "name": "two\nlines"}, "/name"),
        ({"slug": "a", "plan": "no-such-plan"}, "/plan"),
        ({"slug": "a", "plan": "pro@999"}, "/plan"),
        ({"slug": "a", "plan": "pln_00000000000000000000000009"}, "/plan"),
        ({"slug": "a", "plan": "\x00"}, "/plan"),
        ({"slug": "a", "tenant_id": "x"}, ""),
        ({"slug": "a", "status": "suspended"}, ""),
    ],
)
async def test_a4_422_a_body_that_describes_no_tenant(world: World, body: dict[str, Any], pointer: str) -> None:
    answer = await world.client.post(TENANTS, json=body, headers=await platform_program(world))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


async def test_tenants_are_listed_newest_first_page_by_page(world: World) -> None:
    operator = await platform_program(world)
    ids = [(await made(world, operator, TENANTS, {"slug": a_slug()}))["id"] for _ in range(3)]
    first = (await get(world, operator, TENANTS, limit=2)).json()
    assert [each["id"] for each in first["data"]] == ids[:0:-1]
    second = (await get(world, operator, TENANTS, limit=2, cursor=first["next_cursor"])).json()
    assert second["data"][0]["id"] == ids[0]


async def test_tenants_are_filtered(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    [found] = (await get(world, operator, TENANTS, slug=tenant.slug)).json()["data"]
    assert found["id"] == tenant.id
    assert (await get(world, operator, TENANTS, slug=tenant.slug, status="suspended")).json()["data"] == []
    page = (await get(world, operator, TENANTS, limit=1)).json()
    answer = await get(world, operator, TENANTS, limit=1, status="active", cursor=page["next_cursor"])
    assert problem(answer) == (422, "validation-failed"), "a cursor is good for its own list alone"


async def test_a9_a_suspended_tenant_is_refused_on_the_next_request_and_let_in_again(world: World) -> None:
    operator, tenant = await platform_person(world), await world.tenant()
    assert (await world.predict(tenant.live)).status_code == 200
    for _ in range(2):
        answer = await world.client.post(f"{TENANTS}/{tenant.id}/suspend", headers=operator)
        assert (answer.status_code, answer.json()["status"]) == (200, "suspended")
        assert problem(await world.predict(tenant.live)) == (403, "tenant-suspended")
    for _ in range(2):
        answer = await world.client.post(f"{TENANTS}/{tenant.id}/resume", headers=operator)
        assert (answer.status_code, answer.json()["status"]) == (200, "active")
        assert (await world.predict(tenant.live)).status_code == 200
    found = [record.entry for record in await trail(world, tenant.id)][-2:]
    assert [entry.action for entry in found] == ["tenant.suspended", "tenant.resumed"], (
        "what changes nothing says nothing"
    )
    assert {entry.actor.kind for entry in found} == {"user"}
    assert {entry.actor.address for entry in found} == {world.address}


@pytest.mark.parametrize("route", ["GET", "POST /suspend", "POST /resume", "GET /subscription", "PUT /subscription"])
@pytest.mark.parametrize("tenant_id", ["ten_00000000000000000000000000", "none_such"])
async def test_404_a_tenant_that_does_not_exist(world: World, route: str, tenant_id: str) -> None:
    method, _, rest = route.partition(" ")
    body = {"plan": "pro"} if method == "PUT" else None
    answer = await world.client.request(
        method, f"{TENANTS}/{tenant_id}{rest}", json=body, headers=await platform_program(world)
    )
    assert problem(answer) == (404, "not-found")


# Plans


async def test_a_change_of_a_plan_is_a_new_version_and_the_old_one_stays(world: World) -> None:
    operator = await platform_program(world)
    wanted = terms(monthly_quota=1000, quota_mode="soft", bills_cache_hits=True, max_api_keys=7)
    first = await made(world, operator, PLANS, wanted)
    assert {name: first[name] for name in wanted} == wanted
    assert (first["version"], first["id"][:4]) == (1, "pln_")
    second = await made(world, operator, PLANS, wanted | {"rate_per_minute": 6})
    assert (second["version"], second["rate_per_minute"]) == (2, 6)
    assert second["id"] != first["id"]
    assert (await get(world, operator, f"{PLANS}/{first['id']}")).json() == first
    page = (await get(world, operator, PLANS, name=wanted["name"])).json()
    assert page == {"data": [second, first], "has_more": False, "next_cursor": None}
    for method in ("PATCH", "PUT", "DELETE"):
        refused = await world.client.request(method, f"{PLANS}/{first['id']}", json=terms(), headers=operator)
        assert problem(refused) == (405, "method-not-allowed")


async def test_a_plan_has_the_prices_that_it_was_given(world: World) -> None:
    operator = await platform_program(world)
    tiers = [
        {"up_to": 100, "rate": {"micros": 7, "per_units": 1000}, "flat_micros": 5},
        {"up_to": None, "rate": {"micros": 3, "per_units": 1}, "flat_micros": 0},
    ]
    wanted = {
        "currency": "EUR",
        "flat_fee_micros": 49_000_000,
        "included_units": 1000,
        "model": "graduated",
        "rate": None,
        "tiers": tiers,
        "package": None,
        "overage": {"micros": 9, "per_units": 1},
    }
    plan = await made(world, operator, PLANS, terms(pricing=wanted))
    assert plan["pricing"] == wanted
    assert (await get(world, operator, f"{PLANS}/{plan['id']}")).json() == plan
    free = await made(world, operator, PLANS, terms())
    assert (free["pricing"]["model"], free["pricing"]["flat_fee_micros"]) == ("flat", 0)


async def test_the_plans_of_every_installation_are_there(world: World) -> None:
    operator = await platform_program(world)
    found: set[str] = set()
    cursor = None
    while True:
        page = (await get(world, operator, PLANS, limit=2, **({"cursor": cursor} if cursor else {}))).json()
        found |= {each["id"] for each in page["data"]}
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert found >= {plan.id for plan in seed_plans()}


async def test_versions_made_at_once_are_different_ones(world: World) -> None:
    operator, body = await platform_program(world), terms()
    answers = await asyncio.gather(*(world.client.post(PLANS, json=body, headers=operator) for _ in range(8)))
    made_versions = [answer.json()["version"] for answer in answers if answer.status_code == 201]
    assert sorted(made_versions) == list(range(1, len(made_versions) + 1))
    assert {problem(answer) for answer in answers if answer.status_code != 201} <= {(409, "already-exists")}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "Not A Name"}, "/name"),
        ({"name": "pro@2"}, "/name"),
        ({"rate_per_minute": 0}, "/rate_per_minute"),
        ({"rate_per_minute": "600"}, "/rate_per_minute"),
        ({"monthly_quota": -1}, "/monthly_quota"),
        ({"quota_mode": "elastic"}, "/quota_mode"),
        ({"max_api_keys": -1}, "/max_api_keys"),
        ({"version": 3}, ""),
        ({"id": "pln_1"}, ""),
        ({"pricing": {"currency": "usd"}}, "/pricing/currency"),
        ({"pricing": {"flat_fee_micros": 0.5}}, "/pricing/flat_fee_micros"),
        ({"pricing": {"flat_fee_micros": -1}}, "/pricing/flat_fee_micros"),
        ({"pricing": {"model": "per_unit"}}, "/pricing/rate"),
        ({"pricing": {"model": "flat", "rate": {"micros": 1}}}, "/pricing/rate"),
        ({"pricing": {"model": "package"}}, "/pricing/package"),
        ({"pricing": {"model": "graduated"}}, "/pricing/tiers"),
        ({"pricing": {"model": "volume", "tiers": [{"up_to": 5, "rate": {"micros": 1}}]}}, "/pricing/tiers"),
        (
            {"pricing": {"model": "volume", "tiers": [{"rate": {"micros": 1}}, {"rate": {"micros": 1}}]}},
            "/pricing/tiers/0/up_to",
        ),
        ({"pricing": {"model": "flat", "tiers": [{"rate": {"micros": 1}}]}}, "/pricing/tiers"),
        ({"pricing": {"model": "per_unit", "rate": {"micros": 1, "per_units": 0}}}, "/pricing/rate/per_units"),
    ],
)
async def test_a4_422_a_body_that_describes_no_plan(world: World, change: dict[str, Any], pointer: str) -> None:
    answer = await world.client.post(PLANS, json=terms(**change), headers=await platform_program(world))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize("plan_id", ["pln_00000000000000000000000009", "none_such"])
async def test_404_a_plan_that_does_not_exist(world: World, plan_id: str) -> None:
    assert problem(await get(world, await platform_program(world), f"{PLANS}/{plan_id}")) == (404, "not-found")


async def test_g1_a_new_plan_is_recorded_above_all_tenants(world: World) -> None:
    operator = await platform_person(world)
    answer = await world.client.post(PLANS, json=terms(), headers=operator)
    [entry] = [
        record.entry
        for record in await trail(world, PLATFORM_CHAIN)
        if record.entry.actor.request_id == answer.headers["x-request-id"]
    ]
    assert (entry.action, entry.target_id, entry.actor.kind) == ("plan.created", answer.json()["id"], "user")
    assert entry.after["rate_per_minute"] == 600


# Subscriptions


async def test_another_plan_counts_on_the_next_request(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant("enterprise")
    assert (await world.predict(tenant.live)).status_code == 200
    small = await made(world, operator, PLANS, terms(monthly_quota=1, quota_mode="hard"))
    answer = await subscribed(world, operator, tenant, small["name"])
    assert answer.status_code == 200, answer.text
    standing = answer.json()
    assert (standing["current"]["plan"], standing["following"]) == (small, None)
    assert problem(await world.predict(tenant.live)) == (429, "quota-exceeded")
    await subscribed(world, operator, tenant, "enterprise")
    assert (await world.predict(tenant.live)).status_code == 200


@pytest.mark.parametrize("kind", ["name", "version", "id"])
async def test_a_plan_is_named_in_three_ways(world: World, kind: str) -> None:
    operator, tenant, body = await platform_program(world), await world.tenant(), terms()
    first, second = [await made(world, operator, PLANS, body) for _ in range(2)]
    reference = {"name": body["name"], "version": f"{body['name']}@1", "id": first["id"]}[kind]
    found = (await subscribed(world, operator, tenant, reference)).json()["current"]["plan"]
    assert found == (second if kind == "name" else first)


async def test_a_tenant_stays_on_the_version_it_is_on(world: World) -> None:
    operator, tenant, body = await platform_program(world), await world.tenant(), terms()
    first = await made(world, operator, PLANS, body)
    await subscribed(world, operator, tenant, body["name"])
    await made(world, operator, PLANS, body | {"rate_per_minute": 1})
    standing = (await get(world, operator, f"{TENANTS}/{tenant.id}/subscription")).json()
    assert standing["current"]["plan"] == first


async def test_the_same_again_changes_nothing(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant("free")
    first = (await subscribed(world, operator, tenant, "pro")).json()
    records = len(await trail(world, tenant.id))
    assert (await subscribed(world, operator, tenant, "pro")).json() == first
    assert len(await trail(world, tenant.id)) == records


async def test_a_plan_may_begin_later_and_then_counts_by_itself(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    operator, tenant = await platform_program(world), await world.tenant("enterprise")
    small = await made(world, operator, PLANS, terms(monthly_quota=0, quota_mode="hard"))
    begins = world.clock.now() + timedelta(seconds=10)
    standing = (await subscribed(world, operator, tenant, small["id"], starts_at=begins.isoformat())).json()
    assert standing["current"]["plan"]["name"] == "enterprise"
    assert standing["following"]["plan"] == small
    assert standing["current"]["ended_at"] == standing["following"]["started_at"]
    assert (await world.predict(tenant.live)).status_code == 200
    world.clock.advance(9)
    assert (await world.predict(tenant.live)).status_code == 200
    world.clock.advance(1)
    assert problem(await world.predict(tenant.live)) == (429, "quota-exceeded")
    standing = (await get(world, operator, f"{TENANTS}/{tenant.id}/subscription")).json()
    assert (standing["current"]["plan"], standing["following"]) == (small, None)


async def test_what_was_decided_for_later_is_given_up_for_what_is_decided_now(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    operator, tenant = await platform_program(world), await world.tenant("free")
    for days in (3, 2, 5):
        begins = world.clock.now() + timedelta(days=days)
        standing = (await subscribed(world, operator, tenant, "pro", starts_at=begins.isoformat())).json()
        assert standing["following"]["plan"]["name"] == "pro"
        assert standing["current"]["ended_at"] == standing["following"]["started_at"]
    standing = (await subscribed(world, operator, tenant, "free")).json()
    assert (standing["current"]["plan"]["name"], standing["following"]) == ("free", None)
    assert standing["current"]["ended_at"] is None


async def test_422_a_plan_does_not_begin_in_the_past(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    answer = await subscribed(world, operator, tenant, "pro", starts_at="2020-01-01T00:00:00Z")
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/starts_at"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/plan"),
        ({"plan": "no-such-plan"}, "/plan"),
        ({"plan": "pro", "starts_at": "tomorrow"}, "/starts_at"),
        ({"plan": "pro", "plan_id": "x"}, ""),
    ],
)
async def test_a4_422_a_body_that_describes_no_subscription(world: World, body: dict[str, Any], pointer: str) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    answer = await world.client.put(f"{TENANTS}/{tenant.id}/subscription", json=body, headers=operator)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


async def test_g1_a_subscription_is_recorded_in_the_tenants_own_chain(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant("free")
    answer = await subscribed(world, operator, tenant, "pro")
    entry = (await trail(world, tenant.id))[-1].entry
    assert (entry.action, entry.actor.kind) == ("subscription.started", "service-account")
    assert entry.actor.request_id == answer.headers["x-request-id"]
    assert entry.before["current"]["plan"] == "free"
    assert entry.after["current"]["plan"] == "pro"


# What holds for all of them


@pytest.mark.parametrize("path", [TENANTS, PLANS])
async def test_the_same_request_again_is_the_same_answer_and_one_creation(world: World, path: str) -> None:
    operator, once = await platform_program(world), f"once-{a_new_number()}"
    body = {"slug": a_slug()} if path == TENANTS else terms()
    answers = [await world.client.post(path, json=body, headers=operator | {"Idempotency-Key": once}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert answers[1].headers["idempotency-replayed"] == "true"
    other = {"slug": a_slug()} if path == TENANTS else terms()
    reused = await world.client.post(path, json=other, headers=operator | {"Idempotency-Key": once})
    assert problem(reused) == (422, "idempotency-key-reused")


async def test_another_programs_idempotency_key_is_another_one(world: World) -> None:
    once = f"once-{a_new_number()}"
    programs = [await platform_program(world) for _ in range(2)]
    found = [await made(world, program, TENANTS, {"slug": a_slug()}, once) for program in programs]
    assert found[0]["id"] != found[1]["id"]


async def test_a7_the_billing_reader_is_no_operator(world: World) -> None:
    for headers in (
        await platform_program(world, PlatformRole.BILLING_READER),
        await platform_person(world, PlatformRole.BILLING_READER),
    ):
        answer = await world.client.post(TENANTS, json={"slug": a_slug()}, headers=headers)
        assert problem(answer) == (403, "insufficient-scope")


# Billers


async def test_the_operator_says_under_which_id_a_biller_knows_a_tenant(world: World) -> None:
    operator, tenant = await platform_program(world), await world.tenant()
    path = f"{TENANTS}/{tenant.id}/biller-customer"

    async def put(customer_id: Any) -> Response:
        return await world.client.put(path, json={"customer_id": customer_id}, headers=operator)

    assert (await get(world, operator, path)).json() == {"customer_id": None}
    for customer_id in ("cus_1", "cus_1", "cus_2", None):
        answer = await put(customer_id)
        assert (answer.status_code, answer.json()) == (200, {"customer_id": customer_id})
        assert (await get(world, operator, path)).json() == {"customer_id": customer_id}
    found = [each.entry for each in await trail(world, tenant.id) if each.entry.action == "biller-customer.set"]
    assert [(entry.before["customer_id"], entry.after["customer_id"]) for entry in found] == [
        (None, "cus_1"),
        ("cus_1", "cus_2"),
        ("cus_2", None),
    ]
    for wrong in ("", "with space", "caf\u00e9", "x" * 201, 5):
        refused = await put(wrong)
        assert problem(refused) == (422, "validation-failed")
        assert pointers(refused) == ["/customer_id"]
    missing = await get(world, operator, f"{TENANTS}/ten_none/biller-customer")
    assert problem(missing) == (404, "not-found")
