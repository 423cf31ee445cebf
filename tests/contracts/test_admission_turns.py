"""Requests that are asked for in the same turn of the event loop: decided like those asked one after the other."""

import asyncio
from dataclasses import replace

import pytest

from backend.domain.admission import Epochs, Verdict
from backend.domain.api_keys import Environment
from backend.domain.limits import Enforcement, period_of
from tests.contracts.asking import (
    CACHED,
    KEY,
    Desk,
    ask,
    claim,
    key_quota,
    key_rate,
    lease_of,
    tenant_quota,
    tenant_rate,
)
from tests.contracts.stores import LEASE_TTL_S
from tests.fakes import FakeHistory

pytestmark = pytest.mark.anyio

RATES = (key_rate(100), tenant_rate(200))
QUOTAS = (tenant_quota(1_000), key_quota(500))
WINDOW_S = 60


@pytest.fixture(autouse=True, params=[False, True], ids=["nobody-says-last", "last-says-so"])
async def known(request: pytest.FixtureRequest, desk: Desk) -> None:
    """The credential has been asked for before, and so have its limits: nothing is special about it any more."""
    desk.last_says_so = request.param
    await desk.settle(lease_of(await desk.admit(ask(rates=RATES, quotas=QUOTAS))))
    desk.clock.advance(WINDOW_S)


async def test_each_finds_what_those_before_it_took(desk: Desk) -> None:
    requests = [ask(cost=cost, rates=RATES, quotas=QUOTAS, epochs=CACHED) for cost in (1, 5, 2)]
    decisions = await desk.admit_together(*requests)
    told = [
        ([state.remaining for state in each.standing.rates], [state.reserved for state in each.standing.quotas])
        for each in decisions
    ]
    assert told == [([99, 199], [1, 1]), ([94, 194], [6, 6]), ([92, 192], [8, 8])]
    assert [lease_of(each).id for each in decisions] == [each.lease_id for each in requests]
    assert await desk.counted(QUOTAS[0]) == (1, 8)
    await desk.settle_all([lease_of(each) for each in decisions])
    assert await desk.counted(QUOTAS[1]) == (9, 0)


async def test_each_gets_its_own_rows(desk: Desk) -> None:
    names = [bytes([letter]) * 20 for letter in b"abcd"]
    [first] = await desk.admit_together(ask(cost=2, quotas=QUOTAS, epochs=CACHED))
    await desk.settle(lease_of(first), fill=((names[0], b"A"), (names[2], b"C")))
    several = [names[:2], [], names[2:], [names[0]]]
    decisions = await desk.admit_together(
        *[
            ask(cost=max(1, len(rows)), rates=RATES, quotas=QUOTAS, epochs=CACHED, cache_keys=tuple(rows))
            for rows in several
        ]
    )
    assert [each.cached for each in decisions] == [(b"A", None), (), (b"C", None), (b"A",)]


@pytest.mark.parametrize("limit", ["rate", "quota"])
async def test_no_more_are_admitted_than_there_is_room_for(desk: Desk, limit: str) -> None:
    rates = (key_rate(10),) if limit == "rate" else ()
    quotas = (key_quota(10),) if limit == "quota" else ()
    await desk.spend(ask(rates=rates, quotas=quotas, epochs=CACHED))
    desk.clock.advance(WINDOW_S)
    # One row of the quota was used by the first request of all, and one right before.
    room = 10 if limit == "rate" else 8
    decisions = await desk.admit_together(*[ask(rates=rates, quotas=quotas, epochs=CACHED) for _ in range(15)])
    refused = Verdict.RATE_LIMITED if limit == "rate" else Verdict.QUOTA_EXCEEDED
    assert [each.verdict for each in decisions] == [Verdict.ADMITTED] * room + [refused] * (15 - room)
    assert all(each.retry_after_s for each in decisions[room:])


async def test_who_does_not_fit_keeps_nobody_out_who_does(desk: Desk) -> None:
    rates = (key_rate(10),)
    requests = [ask(cost=cost, rates=rates, quotas=QUOTAS, epochs=CACHED) for cost in (4, 20, 3, 9, 3, 1)]
    decisions = await desk.admit_together(*requests)
    admitted = [each.verdict is Verdict.ADMITTED for each in decisions]
    assert admitted == [True, False, True, False, True, False]


async def test_in_shadow_all_are_let_through_and_those_beyond_the_limit_are_told_apart(desk: Desk) -> None:
    rates = (key_rate(3),)
    requests = [ask(rates=rates, quotas=QUOTAS, epochs=CACHED, enforcement=Enforcement.SHADOW) for _ in range(5)]
    decisions = await desk.admit_together(*requests)
    assert [each.verdict for each in decisions] == [Verdict.ADMITTED] * 5
    assert [each.overrun for each in decisions] == [None] * 3 + [Verdict.RATE_LIMITED] * 2
    assert await desk.counted(QUOTAS[0]) == (1, 5)


@pytest.mark.parametrize("whose", ["credential", "tenant"])
async def test_a9_none_is_admitted_once_its_credential_has_changed(desk: Desk, whose: str) -> None:
    await desk.admission.announce(desk.tenant, KEY if whose == "credential" else None, 2)
    decisions = await desk.admit_together(*[ask(rates=RATES, quotas=QUOTAS, epochs=CACHED) for _ in range(3)])
    assert {each.verdict for each in decisions} == {Verdict.STALE}
    fresh = Epochs(tenant=2, credential=2, fresh=True)
    decisions = await desk.admit_together(*[ask(rates=RATES, quotas=QUOTAS, epochs=fresh) for _ in range(3)])
    assert {each.verdict for each in decisions} == {Verdict.ADMITTED}
    assert await desk.counted(QUOTAS[0]) == (1, 3)


async def test_credentials_and_environments_do_not_meet(desk: Desk) -> None:
    await desk.spend(ask(key="key_b"))
    two, single = (key_rate(2),), (key_rate(1, subject="key_b"),)
    one = [ask(rates=two, quotas=QUOTAS, epochs=CACHED) for _ in range(3)]
    other = [ask(key="key_b", rates=single, epochs=CACHED) for _ in range(3)]
    mixed = [each for pair in zip(one, other, strict=True) for each in pair]
    decisions = await desk.admit_together(*mixed)
    admitted = [each.verdict is Verdict.ADMITTED for each in decisions]
    assert admitted == [True, True, True, False, False, False]


async def test_what_expired_leases_held_is_there_again(desk: Desk) -> None:
    quotas = (key_quota(6),)  # one row of which is used
    await desk.admit_together(*[ask(quotas=quotas, epochs=CACHED) for _ in range(5)])
    assert await desk.verdict(ask(quotas=quotas, epochs=CACHED)) is Verdict.QUOTA_EXCEEDED
    desk.clock.advance(LEASE_TTL_S + 1)
    decisions = await desk.admit_together(*[ask(quotas=quotas, epochs=CACHED) for _ in range(6)])
    assert [each.verdict for each in decisions] == [Verdict.ADMITTED] * 5 + [Verdict.QUOTA_EXCEEDED]


async def test_a_month_that_has_just_begun_is_counted_from_the_ledger(desk: Desk, history: FakeHistory) -> None:
    quotas = (key_quota(10, subject="key_c"),)
    await desk.verdict(ask(key="key_c"))
    period = period_of(desk.clock.now_s())
    history.record(desk.tenant, 7, environment=Environment.LIVE, period=period, credential_id="key_c")
    decisions = await desk.admit_together(*[ask(key="key_c", quotas=quotas, epochs=CACHED) for _ in range(5)])
    assert [each.verdict is Verdict.ADMITTED for each in decisions] == [True] * 3 + [False] * 2


async def test_those_with_an_idempotency_key_are_decided_by_themselves(desk: Desk) -> None:
    requests = [ask(rates=RATES, quotas=QUOTAS, epochs=CACHED, idempotency=each) for each in (None, claim(), claim())]
    decisions = await desk.admit_together(*requests, ask(rates=RATES, quotas=QUOTAS, epochs=CACHED))
    verdicts = [each.verdict for each in decisions]
    assert verdicts == [Verdict.ADMITTED, Verdict.ADMITTED, Verdict.IDEMPOTENCY_IN_PROGRESS, Verdict.ADMITTED]


@pytest.mark.parametrize("count", [63, 64, 65, 200])
async def test_any_number_may_ask_at_once(desk: Desk, count: int) -> None:
    rates = (key_rate(10_000),)
    decisions = await desk.admit_together(
        *[ask(cost=3, rates=rates, quotas=QUOTAS, epochs=CACHED) for _ in range(count)]
    )
    admitted = min(count, (500 - 1) // 3)
    assert [each.verdict is Verdict.ADMITTED for each in decisions] == [True] * admitted + [False] * (count - admitted)
    assert await desk.counted(QUOTAS[1]) == (1, 3 * admitted)


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_leaves_takes_nobody_along(desk: Desk, who: int, turns: int) -> None:
    keys = (b"a" * 20,)
    follow = [True, True, not desk.last_says_so]
    requests = [ask(rates=RATES, quotas=QUOTAS, epochs=CACHED, cache_keys=keys, others_follow=each) for each in follow]
    tasks = [asyncio.create_task(desk.admit(request)) for request in requests]
    for _ in range(turns):
        await asyncio.sleep(0)
    tasks[who].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for place, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException):
            assert place == who
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert outcome.verdict is Verdict.ADMITTED


async def test_the_wait_for_a_decision_can_be_used_and_no_other_time(desk: Desk) -> None:
    told: list[tuple[int, str]] = []

    async def admitted(number: int, *, others_follow: bool) -> None:
        request = ask(rates=RATES, quotas=QUOTAS, epochs=CACHED, others_follow=others_follow)
        decision = await desk.admit(replace(request, meanwhile=lambda: told.append((number, "waits"))))
        assert decision.verdict is Verdict.ADMITTED
        told.append((number, "is admitted"))

    await asyncio.gather(*[admitted(number, others_follow=number < 2 or not desk.last_says_so) for number in range(3)])
    await asyncio.sleep(0)
    for number in range(3):
        assert [what for who, what in told if who == number] in (["waits", "is admitted"], ["is admitted"])
