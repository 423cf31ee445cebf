"""What a prediction counts as on the bill, decided by the plan of the moment, in both shapes."""

from typing import Any

import pytest

from tests.api.conftest import World
from tests.api.operators import platform_program, subscribed
from tests.api.test_platform import PLANS, made, terms

pytestmark = pytest.mark.anyio

ROW, ANOTHER, THIRD = ([[5.0, 3.0, 1.0, number / 10]] for number in (1, 2, 3))


async def test_r14_what_is_billable_is_decided_when_it_happens_and_stored_with_its_reason(world: World) -> None:
    tenant, operator = await world.tenant("enterprise"), await platform_program(world)

    async def on_a_plan(**changes: Any) -> str:
        plan = await made(world, operator, PLANS, terms(**changes))
        assert (await subscribed(world, operator, tenant, plan["id"])).status_code == 200
        return str(plan["id"])

    free_hits = await on_a_plan(bills_cache_hits=False)
    once = {"Idempotency-Key": "order-1"}
    for key, rows, headers in (
        (tenant.live, ROW, {}),
        (tenant.live, ROW, {}),
        (tenant.test, ROW, {}),
        (tenant.live, ANOTHER, once),
        (tenant.live, ANOTHER, once),
        (tenant.live, ROW + THIRD, {}),
    ):
        assert (await world.predict(key, rows, headers=headers)).status_code == 200
    found = [
        ("live", 1, 0, 1, free_hits),
        ("cache-hit", 1, 1, 0, free_hits),
        ("test-key", 1, 0, 0, free_hits),
        # What is replayed is told again, and booked no second time.
        ("live", 1, 0, 1, free_hits),
        ("live", 2, 1, 1, free_hits),
    ]
    assert await booked(world, tenant) == found
    # Another plan is for what comes, not for what was.
    billed_hits = await on_a_plan(bills_cache_hits=True)
    assert (await world.predict(tenant.live, ROW)).json()["usage"]["billable_units"] == 1
    [*before, last] = await booked(world, tenant)
    assert before == found
    assert last == ("live", 1, 1, 1, billed_hits)


async def booked(world: World, tenant: Any) -> list[tuple[str, int, int, int, str]]:
    return [
        (event["reason"], event["units"], event["cached_units"], event["billable_units"], event["plan_id"])
        for event in await world.events(tenant)
    ]
