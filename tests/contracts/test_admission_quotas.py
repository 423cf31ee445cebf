"""Quotas, leases, periods and rebuilding, in one body over every admission adapter."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from backend.domain.admission import Verdict
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable
from backend.domain.plans import QuotaMode
from tests.contracts.asking import Desk, ask, claim, key_quota, key_rate, lease_of, tenant_quota
from tests.contracts.stores import LEASE_TTL_S, Store
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

HUNDRED = tenant_quota(100)
THIS_MONTH = "2026-07"


async def test_l1_of_four_times_the_cap_at_once_exactly_the_cap_passes(desk: Desk) -> None:
    verdicts = await asyncio.gather(*[desk.verdict(ask(quotas=(tenant_quota(40),))) for _ in range(160)])
    assert verdicts.count(Verdict.ADMITTED) == 40
    assert verdicts.count(Verdict.QUOTA_EXCEEDED) == 120


async def test_a_refusal_by_one_quota_spends_nothing_of_anything(desk: Desk) -> None:
    tenant, key, limit = tenant_quota(10), key_quota(3), key_rate(100)
    decision = await desk.admit(ask(cost=4, rates=(limit,), quotas=(tenant, key), idempotency=claim()))
    assert (decision.verdict, decision.lease) == (Verdict.QUOTA_EXCEEDED, None)
    assert [(s.used, s.reserved) for s in decision.standing.quotas] == [(0, 0), (0, 0)]
    assert [s.remaining for s in decision.standing.rates] == [100]
    assert await desk.counted(tenant) == (0, 0)
    assert await desk.remaining(limit) == 100
    assert await desk.verdict(ask(cost=4, quotas=(key, tenant))) is Verdict.QUOTA_EXCEEDED
    free = await desk.verdict(ask(cost=3, quotas=(tenant, key), idempotency=claim(fingerprint=b"x" * 32)))
    assert free is Verdict.ADMITTED


async def test_a_refusal_by_a_rate_limit_leases_nothing(desk: Desk) -> None:
    decision = await desk.admit(ask(cost=2, rates=(key_rate(1),), quotas=(HUNDRED,), idempotency=claim()))
    assert decision.verdict is Verdict.RATE_LIMITED
    assert [(s.used, s.reserved) for s in decision.standing.quotas] == [(0, 0)]
    assert await desk.counted(HUNDRED) == (0, 0)
    assert await desk.verdict(ask(idempotency=claim(fingerprint=b"x" * 32))) is Verdict.ADMITTED


async def test_a_refused_quota_tells_the_seconds_to_the_periods_end(desk: Desk) -> None:
    decision = await desk.admit(ask(cost=101, quotas=(HUNDRED,)))
    left = datetime(2026, 8, 1, tzinfo=UTC) - desk.clock.now()
    assert decision.retry_after_s == left.total_seconds()
    assert decision.standing.quotas[0].resets_at_s == datetime(2026, 8, 1, tzinfo=UTC).timestamp()


async def test_a_soft_quota_counts_and_admits_past_its_limit(desk: Desk) -> None:
    soft = tenant_quota(5, QuotaMode.SOFT)
    await desk.spend(ask(cost=5, quotas=(soft,)))
    decision = await desk.admit(ask(cost=3, quotas=(soft,)))
    assert (decision.verdict, decision.standing.quotas[0].remaining) == (Verdict.ADMITTED, 0)
    await desk.settle(lease_of(decision))
    assert await desk.counted(soft) == (8, 0)


async def test_without_a_limit_use_is_counted_all_the_same(desk: Desk) -> None:
    desk.history.record(desk.tenant, 70, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await desk.spend(ask(cost=2, quotas=(tenant_quota(None), key_quota(None))))
    assert await desk.counted(tenant_quota(None)) == (72, 0)
    assert await desk.counted(key_quota(None)) == (72, 0)


async def test_a_changed_quota_holds_from_the_next_request_on(desk: Desk) -> None:
    await desk.spend(ask(cost=5, quotas=(tenant_quota(5),)))
    assert await desk.verdict(ask(quotas=(tenant_quota(5),))) is Verdict.QUOTA_EXCEEDED
    assert await desk.verdict(ask(quotas=(tenant_quota(6),))) is Verdict.ADMITTED
    assert await desk.verdict(ask(quotas=(tenant_quota(4),))) is Verdict.QUOTA_EXCEEDED


async def test_k10_test_keys_never_consume_live_quota(desk: Desk) -> None:
    quota = tenant_quota(3)
    assert await desk.verdict(ask(cost=3, quotas=(quota,), environment=Environment.TEST)) is Verdict.ADMITTED
    assert await desk.verdict(ask(cost=1, quotas=(quota,), environment=Environment.TEST)) is Verdict.QUOTA_EXCEEDED
    assert await desk.counted(quota) == (0, 0)
    assert await desk.verdict(ask(cost=3, quotas=(quota,))) is Verdict.ADMITTED


# Leases


async def test_settling_turns_a_lease_into_use_once(desk: Desk) -> None:
    lease = lease_of(await desk.admit(ask(cost=7, quotas=(HUNDRED, key_quota(50)))))
    assert await desk.counted(HUNDRED) == (0, 7)
    for _ in range(2):
        await desk.settle(lease)
        assert await desk.counted(HUNDRED) == (7, 0)
        assert await desk.counted(key_quota(50)) == (7, 0)


async def test_releasing_gives_a_lease_back_once(desk: Desk) -> None:
    kept, given_back = [lease_of(await desk.admit(ask(cost=7, quotas=(HUNDRED,)))) for _ in range(2)]
    for _ in range(2):
        await desk.release(given_back)
        assert await desk.counted(HUNDRED) == (0, 7)
    await desk.settle(given_back)
    assert await desk.counted(HUNDRED) == (0, 7)
    await desk.settle(kept)
    await desk.release(kept)
    assert await desk.counted(HUNDRED) == (7, 0)


async def test_l2_a_lease_that_never_comes_back_expires(desk: Desk) -> None:
    quota = tenant_quota(10)
    await desk.admit(ask(cost=10, quotas=(quota,)))
    desk.clock.advance(LEASE_TTL_S - 1)
    assert await desk.verdict(ask(quotas=(quota,))) is Verdict.QUOTA_EXCEEDED
    desk.clock.advance(1)
    assert await desk.counted(quota) == (0, 0)
    assert await desk.verdict(ask(cost=10, quotas=(quota,))) is Verdict.ADMITTED


async def test_only_the_leases_that_expired_come_back(desk: Desk) -> None:
    for cost in (1, 2, 4, 8):
        await desk.admit(ask(cost=cost, quotas=(HUNDRED,)))
        desk.clock.advance(20)
    assert await desk.counted(HUNDRED) == (0, 2 + 4 + 8 - 2)
    desk.clock.advance(20)
    assert await desk.counted(HUNDRED) == (0, 8)
    desk.clock.advance(20)
    assert await desk.counted(HUNDRED) == (0, 0)


@pytest.mark.parametrize("given_back_first", [False, True])
async def test_settling_after_expiry_counts_once(desk: Desk, *, given_back_first: bool) -> None:
    lease = lease_of(await desk.admit(ask(cost=6, quotas=(HUNDRED,))))
    desk.clock.advance(LEASE_TTL_S + 5)
    if given_back_first:
        assert await desk.counted(HUNDRED) == (0, 0)
    for _ in range(3):
        await desk.settle(lease)
    assert await desk.counted(HUNDRED) == (6, 0)


async def test_releasing_after_expiry_gives_nothing_back_twice(desk: Desk) -> None:
    lost = lease_of(await desk.admit(ask(cost=6, quotas=(HUNDRED,))))
    desk.clock.advance(LEASE_TTL_S)
    await desk.admit(ask(cost=5, quotas=(HUNDRED,)))
    await desk.release(lost)
    await desk.settle(lost)
    assert await desk.counted(HUNDRED) == (0, 5)


# Periods


@pytest.mark.parametrize(
    "first_of_month",
    [
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2027, 3, 1, tzinfo=UTC),
        datetime(2028, 2, 29, tzinfo=UTC),
        datetime(2028, 3, 1, tzinfo=UTC),
        datetime(2026, 5, 1, tzinfo=UTC),
        datetime(2100, 3, 1, tzinfo=UTC),
    ],
    ids=lambda day: day.strftime("%Y-%m-%d"),
)
async def test_l5_the_first_request_of_a_month_passes_with_no_job(desk: Desk, first_of_month: datetime) -> None:
    quota = tenant_quota(2)
    desk.clock.set(first_of_month - timedelta(seconds=1))
    await desk.spend(ask(cost=2, quotas=(quota,)))
    refused = await desk.admit(ask(quotas=(quota,)))
    desk.clock.set(first_of_month)
    decision = await desk.admit(ask(quotas=(quota,)))
    if first_of_month.day == 1:
        assert (refused.verdict, refused.retry_after_s) == (Verdict.QUOTA_EXCEEDED, 1)
        assert (decision.verdict, decision.standing.quotas[0].remaining) == (Verdict.ADMITTED, 1)
    else:
        assert decision.verdict is Verdict.QUOTA_EXCEEDED


async def test_a_lease_is_settled_in_the_month_it_was_taken(desk: Desk) -> None:
    desk.clock.set(datetime(2026, 7, 31, 23, 59, 59, tzinfo=UTC))
    lease = lease_of(await desk.admit(ask(cost=9, quotas=(HUNDRED,))))
    desk.clock.advance(2)
    await desk.settle(lease)
    assert lease.period == "2026-07"
    assert await desk.counted(HUNDRED) == (0, 0)
    desk.clock.advance(-2)
    assert await desk.counted(HUNDRED) == (9, 0)


# Beginning a counter with what the ledger holds


async def test_l4_a_lost_counter_is_rebuilt_before_a_cap_admits(desk: Desk, store: Store) -> None:
    await desk.spend(ask(cost=60, quotas=(HUNDRED,)))
    desk.history.record(desk.tenant, 60, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await store.lose()
    desk.admission = store.open()
    assert await desk.verdict(ask(cost=41, quotas=(HUNDRED,))) is Verdict.QUOTA_EXCEEDED
    assert await desk.verdict(ask(cost=40, quotas=(HUNDRED,))) is Verdict.ADMITTED


async def test_use_already_in_the_ledger_is_not_counted_again_when_it_is_settled(desk: Desk, store: Store) -> None:
    lease = lease_of(await desk.admit(ask(cost=6, quotas=(HUNDRED, key_quota(50)))))
    desk.history.record(desk.tenant, 6, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await store.lose()
    desk.admission = store.open()
    assert await desk.counted(HUNDRED) == (6, 0)
    await desk.settle(lease)
    assert await desk.counted(HUNDRED) == (6, 0)
    assert await desk.counted(key_quota(50)) == (6, 0)


async def test_settling_before_a_lost_counter_was_rebuilt_does_not_begin_it(desk: Desk, store: Store) -> None:
    lease = lease_of(await desk.admit(ask(cost=6, quotas=(HUNDRED,))))
    desk.history.record(desk.tenant, 6, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await store.lose()
    desk.admission = store.open()
    await desk.settle(lease)
    assert await desk.counted(HUNDRED) == (6, 0)


async def test_the_ledger_is_asked_once_however_many_wait(desk: Desk) -> None:
    desk.history.record(desk.tenant, 90, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    verdicts = await asyncio.gather(*[desk.verdict(ask(quotas=(HUNDRED, key_quota(95)))) for _ in range(40)])
    assert verdicts.count(Verdict.ADMITTED) == 5
    # One question a counter; where an answer crosses the end of the reading, a late one may ask once more.
    asked = desk.history.questions
    assert 2 <= asked <= 4
    assert await desk.counted(HUNDRED) == (90, 5)
    assert desk.history.questions == asked


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(desk: Desk) -> None:
    waiting = [asyncio.create_task(desk.verdict(ask(quotas=(HUNDRED,)))) for _ in range(4)]
    # Whoever asked the ledger leaves while it answers.
    desk.history.on_question = waiting[0].cancel
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [Verdict.ADMITTED] * 3
    assert await desk.counted(HUNDRED) == (0, 3)


async def test_without_the_ledger_a_hard_cap_refuses_and_anything_else_goes_uncounted(desk: Desk) -> None:
    desk.history.is_down = True
    with pytest.raises(EnforcementUnavailable) as refusal:
        await desk.admit(ask(quotas=(HUNDRED,)))
    assert refusal.value.retry_after_s == 1
    soft = tenant_quota(5, QuotaMode.SOFT)
    uncounted = lease_of(await desk.admit(ask(cost=9, quotas=(soft, key_quota(None)))))
    assert uncounted.quotas == ()
    desk.history.is_down = False
    desk.history.record(desk.tenant, 9, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    await desk.settle(uncounted)
    assert await desk.counted(soft) == (9, 0)


async def test_a_rebuild_that_ends_in_the_next_month_counts_in_the_next_month(
    store: Store, clock: FakeClock, history: FakeHistory
) -> None:
    desk = Desk(store.open(), clock, history)
    clock.set(datetime(2026, 7, 31, 23, 59, 59, tzinfo=UTC))
    history.record(desk.tenant, 100, environment=Environment.LIVE, period=THIS_MONTH, credential_id="key_a")
    history.on_question = lambda: clock.set(datetime(2026, 8, 1, tzinfo=UTC))
    decision = await desk.admit(ask(quotas=(HUNDRED,)))
    assert lease_of(decision).period == "2026-08"
    assert decision.standing.quotas[0].remaining == 99


async def test_r10_what_is_settled_is_read_by_tenant_environment_and_month(desk: Desk) -> None:
    async def settled(environment: Environment = Environment.LIVE, period: str = THIS_MONTH) -> int | None:
        return await desk.admission.settled_units(desk.tenant, environment, period)

    # No counter has begun: nothing is known, which is not the same as nothing used.
    assert await settled() is None
    await desk.spend(ask(cost=3, quotas=(tenant_quota(None), key_quota(10))))
    await desk.spend(ask(cost=4, quotas=(tenant_quota(None),), environment=Environment.TEST))
    lease_of(await desk.admit(ask(cost=5, quotas=(tenant_quota(None),))))
    assert await settled() == 3
    assert await settled(Environment.TEST) == 4
    assert await settled(period="2026-06") is None
    # A month that is over keeps its count until it is closed.
    desk.clock.set(datetime(2026, 8, 3, tzinfo=UTC))
    assert await settled() == 3
    assert await settled(period="2026-08") is None
