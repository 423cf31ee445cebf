"""Idempotency slots and the response cache, in one body over every admission adapter."""

import asyncio

import pytest

from backend.domain.admission import StoredAnswer, Verdict
from backend.domain.ids import TenantId
from tests.contracts.asking import Desk, ask, claim, key_rate, lease_of, tenant_quota
from tests.contracts.stores import LEASE_TTL_S

pytestmark = pytest.mark.anyio

ANSWER = StoredAnswer(
    status=200,
    body=b'{"id": "evt_1"}\r\n\x00\xff',
    headers=(("Content-Type", "application/json"), ("X-Units", "ü")),
)
OTHER_FINGERPRINT = b"g" * 32
A_DAY_S = 86_400


async def test_a_repetition_while_the_first_is_running_is_told_so(desk: Desk) -> None:
    await desk.admit(ask(idempotency=claim()))
    assert await desk.verdict(ask(idempotency=claim())) is Verdict.IDEMPOTENCY_IN_PROGRESS


async def test_another_request_under_the_same_key_is_refused_at_any_time(desk: Desk) -> None:
    lease = lease_of(await desk.admit(ask(idempotency=claim())))
    other = claim(fingerprint=OTHER_FINGERPRINT)
    assert await desk.verdict(ask(idempotency=other)) is Verdict.IDEMPOTENCY_REUSED
    await desk.settle(lease, answer=ANSWER)
    assert await desk.verdict(ask(idempotency=other)) is Verdict.IDEMPOTENCY_REUSED


async def test_a_repetition_gets_the_stored_answer_and_spends_nothing(desk: Desk) -> None:
    limit, quota = key_rate(5), tenant_quota(5)
    await desk.settle(
        lease_of(await desk.admit(ask(cost=5, rates=(limit,), quotas=(quota,), idempotency=claim()))), answer=ANSWER
    )
    for _ in range(3):
        decision = await desk.admit(ask(cost=5, rates=(limit,), quotas=(quota,), idempotency=claim()))
        assert (decision.verdict, decision.replay, decision.lease) == (Verdict.REPLAY, ANSWER, None)
        assert decision.standing == await desk.look(rates=(limit,), quotas=(quota,))
    assert await desk.remaining(limit) == 0
    assert await desk.counted(quota) == (5, 0)


async def test_l7_a_replay_does_not_get_past_a_revocation(desk: Desk) -> None:
    await desk.settle(lease_of(await desk.admit(ask(idempotency=claim()))), answer=ANSWER)
    await desk.admission.announce(desk.tenant, "key_a", 2)
    assert await desk.verdict(ask(idempotency=claim())) is Verdict.STALE


async def test_of_many_at_once_one_runs(desk: Desk) -> None:
    verdicts = await asyncio.gather(*[desk.verdict(ask(idempotency=claim())) for _ in range(20)])
    assert verdicts.count(Verdict.ADMITTED) == 1
    assert verdicts.count(Verdict.IDEMPOTENCY_IN_PROGRESS) == 19


@pytest.mark.parametrize("how", ["release", "settle without an answer"])
async def test_a_request_without_an_answer_frees_its_slot(desk: Desk, how: str) -> None:
    lease = lease_of(await desk.admit(ask(idempotency=claim())))
    if how == "release":
        await desk.release(lease)
    else:
        await desk.settle(lease)
    assert await desk.verdict(ask(idempotency=claim(fingerprint=OTHER_FINGERPRINT))) is Verdict.ADMITTED


async def test_settling_or_releasing_again_does_not_touch_the_answer(desk: Desk) -> None:
    lease = lease_of(await desk.admit(ask(idempotency=claim())))
    await desk.settle(lease, answer=ANSWER)
    await desk.settle(lease, answer=StoredAnswer(status=500, body=b""))
    await desk.settle(lease)
    await desk.release(lease)
    assert (await desk.admit(ask(idempotency=claim()))).replay == ANSWER


async def test_a_slot_comes_free_when_the_lease_of_a_lost_request_expires(desk: Desk) -> None:
    await desk.admit(ask(idempotency=claim()))
    desk.clock.advance(LEASE_TTL_S - 1)
    assert await desk.verdict(ask(idempotency=claim())) is Verdict.IDEMPOTENCY_IN_PROGRESS
    desk.clock.advance(1)
    assert await desk.verdict(ask(idempotency=claim(fingerprint=OTHER_FINGERPRINT))) is Verdict.ADMITTED


async def test_a_late_answer_is_kept_unless_somebody_else_took_the_slot(desk: Desk) -> None:
    late = lease_of(await desk.admit(ask(idempotency=claim("late"))))
    overtaken = lease_of(await desk.admit(ask(idempotency=claim("taken"))))
    desk.clock.advance(LEASE_TTL_S)
    second = lease_of(await desk.admit(ask(idempotency=claim("taken", OTHER_FINGERPRINT))))
    await desk.settle(late, answer=ANSWER)
    await desk.settle(overtaken, answer=ANSWER)
    await desk.release(overtaken)
    assert (await desk.admit(ask(idempotency=claim("late")))).replay == ANSWER
    running = ask(idempotency=claim("taken", OTHER_FINGERPRINT))
    assert await desk.verdict(running) is Verdict.IDEMPOTENCY_IN_PROGRESS
    other_answer = StoredAnswer(status=200, body=b"2")
    await desk.settle(second, answer=other_answer)
    assert (await desk.admit(running)).replay == other_answer


async def test_an_answer_is_forgotten_after_a_day(desk: Desk) -> None:
    await desk.settle(lease_of(await desk.admit(ask(idempotency=claim()))), answer=ANSWER)
    desk.clock.advance(A_DAY_S - 1)
    assert await desk.verdict(ask(idempotency=claim())) is Verdict.REPLAY
    desk.clock.advance(1)
    assert await desk.verdict(ask(idempotency=claim(fingerprint=OTHER_FINGERPRINT))) is Verdict.ADMITTED


async def test_keys_belong_to_a_credential_of_a_tenant(desk: Desk) -> None:
    await desk.settle(lease_of(await desk.admit(ask(idempotency=claim()))), answer=ANSWER)
    assert await desk.verdict(ask(key="key_b", idempotency=claim())) is Verdict.ADMITTED
    other = await desk.admission.admit(TenantId("ten_b"), ask(idempotency=claim()))
    assert other.verdict is Verdict.ADMITTED
    tricky = claim("key_b:order-1} {x\N{SNOWMAN}")
    assert await desk.verdict(ask(idempotency=tricky)) is Verdict.ADMITTED
    assert await desk.verdict(ask(idempotency=tricky)) is Verdict.IDEMPOTENCY_IN_PROGRESS


# The response cache

ROW_A, ROW_B, ROW_C = b"\x00\xff}{:" + b"a" * 15, b"b" * 20, b"c" * 20


async def test_rows_come_back_byte_for_byte_and_in_order(desk: Desk) -> None:
    rows = ((ROW_A, b"\x00\r\n\xff$-1"), (ROW_C, b""))
    await desk.settle(lease_of(await desk.admit(ask(cache_keys=(ROW_A, ROW_B, ROW_C)))), fill=rows)
    assert (await desk.admit(ask(cache_keys=(ROW_C, ROW_B, ROW_A, ROW_C)))).cached == (b"", None, rows[0][1], b"")


async def test_nothing_is_read_when_nothing_was_asked_for(desk: Desk) -> None:
    assert (await desk.admit(ask())).cached == ()


async def test_c1_cache_is_not_shared_between_tenants(desk: Desk) -> None:
    await desk.settle(lease_of(await desk.admit(ask(cache_keys=(ROW_A,)))), fill=((ROW_A, b"secret"),))
    other = await desk.admission.admit(TenantId("ten_b"), ask(cache_keys=(ROW_A,)))
    assert other.cached == (None,)


async def test_a_large_batch_is_read_whole(desk: Desk) -> None:
    keys = tuple(number.to_bytes(20, "big") for number in range(2500))
    fill = tuple((key, key[-2:]) for key in keys[::2])
    await desk.settle(lease_of(await desk.admit(ask(cost=2500, cache_keys=keys))), fill=fill)
    cached = (await desk.admit(ask(cost=2500, cache_keys=keys))).cached
    assert len(cached) == 2500
    assert cached[::2] == tuple(row for _, row in fill)
    assert set(cached[1::2]) == {None}


async def test_cache_and_slot_and_quota_find_their_own_places_in_one_request(desk: Desk) -> None:
    limit, quota, rows = key_rate(50), tenant_quota(50), (ROW_A, ROW_B)
    first = ask(rates=(limit,), quotas=(quota,), idempotency=claim("one"), cache_keys=rows)
    await desk.settle(lease_of(await desk.admit(first)), answer=ANSWER, fill=((ROW_B, b"b"),))
    second = ask(rates=(limit,), quotas=(quota,), idempotency=claim("two"), cache_keys=rows)
    decision = await desk.admit(second)
    assert (decision.verdict, decision.cached) == (Verdict.ADMITTED, (None, b"b"))
    assert (decision.standing.quotas[0].used, decision.standing.quotas[0].reserved) == (1, 1)
