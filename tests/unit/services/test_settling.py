"""Leases are settled after the answers, a few to a task, and none pays for what befalls another."""

import asyncio
from typing import Any

import pytest

from backend.domain.admission import Lease, Settlement
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.services.settling import TOGETHER, Settler

pytestmark = pytest.mark.anyio


class Desk:
    """An admission that only settles, a turn of the loop later; some leases it cannot."""

    def __init__(self, **faults: Exception) -> None:
        self.faults = faults
        self.settled: list[str] = []
        self.tasks: set[Any] = set()

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        self.tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        if settlement.lease.id in self.faults:
            raise self.faults[settlement.lease.id]
        self.settled.append(settlement.lease.id)


def settlement(name: str) -> Settlement:
    lease = Lease(
        id=name,
        tenant_id=TenantId("ten"),
        credential_id="key",
        environment=Environment.LIVE,
        period="2026-04",
        cost=1,
        quotas=(),
        idempotency=None,
    )
    return Settlement(lease=lease)


def settler_of(desk: Any) -> Settler:
    return Settler(desk)


@pytest.mark.parametrize("count", [1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 3 * TOGETHER])
async def test_those_of_one_turn_share_tasks_and_each_is_settled_once(count: int) -> None:
    desk = Desk()
    settler = settler_of(desk)
    names = [f"evt_{number}" for number in range(count)]
    for name in names:
        settler.settle_soon(settlement(name))
    await settler.settled()
    assert sorted(desk.settled) == sorted(names)
    assert len(desk.tasks) == -(-count // TOGETHER)


async def test_those_of_a_later_turn_do_not_wait_for_the_earlier() -> None:
    desk = Desk()
    settler = settler_of(desk)
    settler.settle_soon(settlement("first"))
    await asyncio.sleep(0)
    settler.settle_soon(settlement("second"))
    await settler.settled()
    assert desk.settled == ["first", "second"]
    assert len(desk.tasks) == 2


async def test_what_befalls_one_leaves_the_others_settled() -> None:
    desk = Desk(b=EnforcementUnavailable(retry_after_s=1), c=RuntimeError("a mistake"))
    settler = settler_of(desk)
    for name in "abcd":
        settler.settle_soon(settlement(name))
    await settler.settled()
    assert desk.settled == ["a", "d"]
