"""Leases are settled after the answers, all that wait of a tenant at once, and none pays for what befalls another."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from backend.domain.admission import Lease, Settlement
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.services.settling import MOST_WAITING, TENANTS_TOGETHER, Settler

pytestmark = pytest.mark.anyio


class Desk:
    """An admission that only settles, a turn of the loop later; some leases it cannot, alone or among others."""

    def __init__(self, **faults: Exception) -> None:
        self.faults = faults
        self.settled: list[str] = []
        self.calls: list[tuple[TenantId, int]] = []
        self.tasks: set[Any] = set()

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        await asyncio.sleep(0)
        self._settle(tenant_id, settlement)

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        self.tasks.add(asyncio.current_task())
        self.calls.append((tenant_id, len(settlements)))
        await asyncio.sleep(0)
        for settlement in settlements:
            self._settle(tenant_id, settlement)

    def _settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        assert settlement.lease.tenant_id == tenant_id
        if settlement.lease.id in self.faults:
            raise self.faults[settlement.lease.id]
        if settlement.lease.id not in self.settled:
            self.settled.append(settlement.lease.id)


def settlement(name: str, tenant: str = "ten", fills: Sequence[bytes] = ()) -> Settlement:
    lease = Lease(
        id=name,
        tenant_id=TenantId(tenant),
        credential_id="key",
        environment=Environment.LIVE,
        period="2026-04",
        cost=1,
        quotas=(),
        idempotency=None,
    )
    return Settlement(lease=lease, cache_fill=tuple((digest, b"row") for digest in fills))


def settler_of(desk: Any) -> Settler:
    return Settler(desk)


@pytest.mark.parametrize("tenants", [1, TENANTS_TOGETHER, TENANTS_TOGETHER + 1, 3 * TENANTS_TOGETHER])
async def test_those_that_wait_are_one_call_a_tenant_and_each_is_settled_once(tenants: int) -> None:
    desk = Desk()
    settler = settler_of(desk)
    names = [f"evt_{number}" for number in range(5 * tenants)]
    for number, name in enumerate(names):
        settler.settle_soon(settlement(name, f"ten_{number % tenants}"))
    await settler.settled()
    assert sorted(desk.settled) == sorted(names)
    assert sorted(desk.calls) == sorted((f"ten_{number}", 5) for number in range(tenants))
    assert len(desk.tasks) == -(-tenants // TENANTS_TOGETHER)


async def test_so_many_of_one_tenant_are_settled_at_once_and_fewer_wait() -> None:
    desk = Desk()
    settler = settler_of(desk)
    for number in range(MOST_WAITING - 1):
        settler.settle_soon(settlement(f"evt_{number}"))
        settler.settle_soon(settlement(f"other_{number}", f"ten_{number}"))
    await asyncio.sleep(0)
    assert desk.calls == []
    settler.settle_soon(settlement("last"))
    await asyncio.sleep(0)
    assert desk.calls == [("ten", MOST_WAITING)]
    await settler.settled()
    assert len(desk.settled) == 2 * MOST_WAITING - 1


async def test_a_lone_callers_is_settled_once_it_is_answered_and_a_crowds_wait() -> None:
    desk = Desk()
    settler = settler_of(desk)
    settler.settle_when_answered()
    settler.settle_soon(settlement("alone"))
    settler.settle_when_answered()
    assert not desk.calls, "the answer is still to be written"
    for _ in range(3):
        await asyncio.sleep(0)
    assert desk.settled == ["alone"]
    for name, tenant in (("one", "ten"), ("other", "ten"), ("third", "ten_b")):
        settler.settle_soon(settlement(name, tenant))
    settler.settle_when_answered()
    for _ in range(3):
        await asyncio.sleep(0)
    assert desk.settled == ["alone"]
    await settler.settled()
    assert sorted(desk.settled) == ["alone", "one", "other", "third"]


async def test_what_fills_a_row_is_settled_before_somebody_asks_for_it() -> None:
    desk = Desk()
    settler = settler_of(desk)
    settler.settle_soon(settlement("a", fills=(b"1", b"2")))
    settler.settle_soon(settlement("b"))
    settler.settle_soon(settlement("c", "ten_b", fills=(b"3",)))
    assert not settler.is_filling(())
    assert not settler.is_filling((b"4",))
    assert settler.is_filling((b"4", b"2"))
    await settler.settle_first(TenantId("ten"))
    assert desk.calls == [("ten", 2)], "it has been sent, and what comes next comes behind it"
    assert not settler.is_filling((b"1", b"2"))
    assert settler.is_filling((b"3",)), "another tenant's waits on"
    await settler.settle_first(TenantId("ten"))
    await settler.settled()
    assert desk.settled == ["a", "b", "c"]
    assert not settler.is_filling((b"3",))


async def test_they_are_settled_though_nobody_waits_for_it() -> None:
    desk = Desk()
    settler = settler_of(desk)
    for name in "ab":
        settler.settle_soon(settlement(name))
    async with asyncio.timeout(30):
        while len(desk.settled) < 2:
            await asyncio.sleep(0)
    assert desk.calls == [("ten", 2)]
    await settler.settled()
    assert desk.calls == [("ten", 2)]


async def test_a_mistake_about_one_leaves_the_others_settled(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(b=EnforcementUnavailable(retry_after_s=1), c=RuntimeError("a mistake"))
    settler = settler_of(desk)
    for name in "cabd":
        settler.settle_soon(settlement(name))
    settler.settle_soon(settlement("e", "ten_b"))
    await settler.settled()
    assert sorted(desk.settled) == ["a", "d", "e"]
    assert _left(caplog) == ["c", "b"]


async def test_what_an_outage_leaves_unsettled_is_said_of_each(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(b=EnforcementUnavailable(retry_after_s=1))
    settler = settler_of(desk)
    for name in "bac":
        settler.settle_soon(settlement(name))
    settler.settle_soon(settlement("d", "ten_b"))
    await settler.settled()
    assert desk.settled == ["d"]
    assert _left(caplog) == ["b", "a", "c"]


def _left(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the leases that are said not to be settled."""
    said = [record for record in caplog.records if record.message == "lease not settled"]
    return [record.__dict__["event_id"] for record in said]
