"""Many leases settled together leave what settling each alone would leave, in one body over every admission adapter."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from backend.domain.admission import Settlement, StoredAnswer, Verdict
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from tests.contracts.asking import Desk, ask, claim, key_quota, lease_of, tenant_quota
from tests.contracts.stores import LEASE_TTL_S, Store
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

WHOLE = tenant_quota(1000)
OWN = key_quota(500)
OTHERS = key_quota(500, subject="key_b")
THIRD = key_quota(500, subject="key_c")
BOTH = (WHOLE, OWN)
THIS_MONTH = "2026-07"
ANSWER = StoredAnswer(status=200, body=b"{}")

Settle = Callable[[Desk, Sequence[Settlement]], Awaitable[None]]


async def together(desk: Desk, settlements: Sequence[Settlement]) -> None:
    await desk.admission.settle_all(desk.tenant, settlements)


async def together_backwards_and_again(desk: Desk, settlements: Sequence[Settlement]) -> None:
    await together(desk, [*reversed(settlements), *settlements])
    await together(desk, settlements)


async def apart(desk: Desk, settlements: Sequence[Settlement]) -> None:
    for settlement in settlements:
        await desk.admission.settle(desk.tenant, settlement)


async def a_mixture(desk: Desk, settle: Settle) -> list[object]:
    """Settle leases of every kind in one go; return all that can be seen of tenant, key, environments and rows."""
    expired = lease_of(await desk.admit(ask(cost=1, quotas=BOTH)))
    unseen_expiry = lease_of(await desk.admit(ask(cost=2, quotas=(THIRD,), key="key_c")))
    desk.clock.advance(LEASE_TTL_S)
    await desk.look(quotas=BOTH)  # What the first held is given back; of the second nobody knows that it has expired.
    settled = lease_of(await desk.admit(ask(cost=4, quotas=BOTH)))
    released = lease_of(await desk.admit(ask(cost=8, quotas=BOTH)))
    running = [lease_of(await desk.admit(ask(cost=16, quotas=BOTH))) for _ in range(3)]
    of_other_key = lease_of(await desk.admit(ask(cost=32, quotas=(WHOLE, OTHERS), key="key_b")))
    in_test = lease_of(await desk.admit(ask(cost=64, quotas=(WHOLE,), environment=Environment.TEST)))
    unlimited = lease_of(await desk.admit(ask(cost=128)))
    answered = lease_of(await desk.admit(ask(cost=3, quotas=BOTH, idempotency=claim("answered"))))
    without_answer = lease_of(await desk.admit(ask(cost=5, quotas=BOTH, idempotency=claim("free"))))
    kept = lease_of(await desk.admit(ask(cost=7, quotas=BOTH)))
    await desk.settle(settled)
    await desk.release(released)
    leases = (expired, unseen_expiry, settled, released, *running, of_other_key, in_test, unlimited, without_answer)
    settlements = [
        Settlement(lease=lease, cache_fill=((b"%20d" % number, b"row %d" % number),))
        for number, lease in enumerate(leases)
    ]
    await settle(desk, [*settlements, Settlement(lease=answered, answer=ANSWER), Settlement(lease=running[0])])
    test_units = await desk.admission.settled_units(desk.tenant, Environment.TEST, THIS_MONTH)
    counted = [await desk.counted(rule) for rule in (WHOLE, OWN, OTHERS, THIRD)]
    decision = await desk.admit(ask(cache_keys=tuple([b"%20d" % number for number in range(len(leases) + 1)])))
    replay = await desk.admit(ask(idempotency=claim("answered")))
    free = await desk.admit(ask(idempotency=claim("free", fingerprint=b"x" * 32)))
    desk.clock.advance(LEASE_TTL_S)
    assert (await desk.counted(WHOLE))[1] == 0, f"what {kept.id} held has come back, and nothing was given back twice"
    return [counted, test_units, decision.cached, replay.verdict, replay.replay, free.verdict]


@pytest.mark.parametrize("settle", [together, together_backwards_and_again, apart], ids=lambda way: way.__name__)
async def test_however_they_are_settled_the_same_is_left(desk: Desk, settle: Settle) -> None:
    counted, test_units, cached, *slots = await a_mixture(desk, settle)
    assert counted == [(1 + 4 + 3 * 16 + 32 + 3 + 5, 7), (1 + 4 + 3 * 16 + 3 + 5, 7), (32, 0), (2, 0)]
    assert test_units == 64
    assert cached == (*[b"row %d" % number for number in range(11)], None)
    assert slots == [Verdict.REPLAY, ANSWER, Verdict.ADMITTED]


async def test_nothing_to_settle_is_no_error(desk: Desk) -> None:
    await desk.settle_all([])
    await desk.settle_all([lease_of(await desk.admit(ask()))])


@pytest.mark.parametrize("count", [63, 64, 65, 200])
async def test_any_number_is_settled_once_with_all_its_rows(desk: Desk, count: int) -> None:
    leases = await asyncio.gather(*[desk.admit(ask(quotas=(WHOLE, OWN))) for _ in range(count)])
    settlements = [
        Settlement(lease=lease_of(decision), cache_fill=tuple([(b"%10d%10d" % (at, i), b"%d" % at) for i in range(9)]))
        for at, decision in enumerate(leases)
    ]
    await together(desk, settlements)
    assert [await desk.counted(rule) for rule in BOTH] == [(count, 0)] * 2
    wanted = tuple([digest for settlement in settlements for digest, _ in settlement.cache_fill])
    rows = tuple([row for settlement in settlements for _, row in settlement.cache_fill])
    assert (await desk.admit(ask(cache_keys=wanted))).cached == rows


async def test_one_with_very_many_rows_is_settled_among_the_others(desk: Desk) -> None:
    leases = [lease_of(await desk.admit(ask(quotas=(WHOLE,)))) for _ in range(3)]
    fill = tuple([(b"%20d" % number, b"%d" % number) for number in range(2500)])
    fills: tuple[tuple[tuple[bytes, bytes], ...], ...] = (fill[:1], fill[1:-1], fill[-1:])
    await together(desk, [Settlement(lease=lease, cache_fill=rows) for lease, rows in zip(leases, fills, strict=True)])
    assert await desk.counted(WHOLE) == (3, 0)
    assert (await desk.admit(ask(cache_keys=tuple([digest for digest, _ in fill])))).cached == tuple(
        [row for _, row in fill]
    )


async def test_those_whose_counter_was_lost_are_counted_from_the_ledger(desk: Desk, store: Store) -> None:
    """One counter is lost and read again, the other is lost and not yet: neither counts what the ledger told."""
    leases = [lease_of(await desk.admit(ask(cost=6, quotas=BOTH))) for _ in range(2)]
    desk.history.record(desk.tenant, 12, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await store.lose()
    desk.admission = store.open()
    assert await desk.counted(WHOLE) == (12, 0)
    later = lease_of(await desk.admit(ask(cost=1, quotas=(WHOLE,))))
    await desk.settle_all([*leases, later])
    assert await desk.counted(WHOLE) == (13, 0)
    assert await desk.counted(OWN) == (12, 0)


async def test_tenants_do_not_meet(store: Store, clock: FakeClock, history: FakeHistory) -> None:
    one, two = (Desk(store.open(), clock, history, TenantId(name)) for name in ("ten_a", "ten_b"))
    for desk in (one, two):
        leases = [lease_of(await desk.admit(ask(cost=2, quotas=(WHOLE,)))) for _ in range(2)]
        row = desk.tenant.encode()
        await together(desk, [Settlement(lease=lease, cache_fill=((b"k" * 20, row),)) for lease in leases])
    for desk in (one, two):
        assert await desk.counted(WHOLE) == (4, 0)
        assert (await desk.admit(ask(cache_keys=(b"k" * 20,)))).cached == (desk.tenant.encode(),)
