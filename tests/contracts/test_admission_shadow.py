"""Subscriptions in shadow, in one body over every admission adapter: decided, reported, never refused."""

import asyncio
import itertools
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.domain.admission import Epochs, Verdict
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement
from tests.contracts.asking import Desk, ask, claim, key_quota, key_rate, lease_of, tenant_quota, tenant_rate
from tests.contracts.stores import Store
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

ask_in_shadow = partial(ask, enforcement=Enforcement.SHADOW)
TEN = tenant_quota(10)
_twins = itertools.count()


async def test_over_a_rate_limit_it_passes_and_says_what_would_have_been(desk: Desk) -> None:
    limit = key_rate(60)
    within = await desk.admit(ask_in_shadow(cost=60, rates=(limit,), quotas=(TEN, key_quota(100))))
    assert (within.verdict, within.overrun) == (Verdict.ADMITTED, Verdict.QUOTA_EXCEEDED)
    within = await desk.admit(ask_in_shadow(cost=60, rates=(limit,)))
    assert (within.verdict, within.overrun) == (Verdict.ADMITTED, None)
    for _ in range(3):
        over = await desk.admit(ask_in_shadow(rates=(limit,)))
        assert (over.verdict, over.overrun, over.retry_after_s) == (Verdict.ADMITTED, Verdict.RATE_LIMITED, None)
        assert [(state.remaining, state.reset_s) for state in over.standing.rates] == [(0, 60)]


async def test_a_level_never_passes_its_limit_however_long_it_is_over(desk: Desk) -> None:
    limit = key_rate(60)
    for _ in range(200):
        await desk.admit(ask_in_shadow(cost=7, rates=(limit,)))
    desk.clock.advance(60)
    assert await desk.remaining(limit) == 60


async def test_what_would_have_been_refused_spends_no_rate_of_anybody(desk: Desk) -> None:
    """The key that is over would not have used up its tenant's limit, so it does not here either."""
    narrow, shared = key_rate(5), tenant_rate(50)
    for _ in range(40):
        await desk.admit(ask_in_shadow(cost=5, rates=(narrow, shared)))
    assert (await desk.remaining(narrow), await desk.remaining(shared)) == (0, 45)


async def test_rows_over_a_hard_quota_are_leased_and_counted(desk: Desk) -> None:
    first = await desk.admit(ask_in_shadow(cost=8, quotas=(TEN,)))
    over = await desk.admit(ask_in_shadow(cost=8, quotas=(TEN,)))
    assert (first.overrun, over.overrun) == (None, Verdict.QUOTA_EXCEEDED)
    state = over.standing.quotas[0]
    assert (state.used, state.reserved, state.remaining) == (0, 16, 0)
    await desk.settle(lease_of(first))
    await desk.settle(lease_of(over))
    assert await desk.counted(TEN) == (16, 0)
    released = lease_of(await desk.admit(ask_in_shadow(cost=3, quotas=(TEN,))))
    await desk.release(released)
    assert await desk.counted(TEN) == (16, 0)


async def test_a_rate_that_is_over_leases_its_rows_all_the_same(desk: Desk) -> None:
    over = await desk.admit(ask_in_shadow(cost=4, rates=(key_rate(1),), quotas=(tenant_quota(100),)))
    assert over.overrun is Verdict.RATE_LIMITED
    await desk.settle(lease_of(over))
    assert await desk.counted(tenant_quota(100)) == (4, 0)


async def test_of_four_times_the_limit_at_once_all_pass_and_three_quarters_are_reported(desk: Desk) -> None:
    limit = key_rate(25)
    decisions = await asyncio.gather(*[desk.admit(ask_in_shadow(rates=(limit,))) for _ in range(100)])
    assert {decision.verdict for decision in decisions} == {Verdict.ADMITTED}
    assert [decision.overrun for decision in decisions].count(Verdict.RATE_LIMITED) == 75


async def test_enforcement_holds_again_from_the_next_request_on(desk: Desk) -> None:
    limit = key_rate(2)
    for _ in range(4):
        await desk.admit(ask_in_shadow(rates=(limit,), quotas=(TEN,)))
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.RATE_LIMITED
    assert await desk.verdict(ask(cost=7, quotas=(TEN,))) is Verdict.QUOTA_EXCEEDED
    assert await desk.verdict(ask(cost=6, quotas=(TEN,))) is Verdict.ADMITTED


async def test_what_is_no_limit_is_enforced_all_the_same(desk: Desk) -> None:
    await desk.admit(ask_in_shadow(idempotency=claim()))
    assert await desk.verdict(ask_in_shadow(idempotency=claim())) is Verdict.IDEMPOTENCY_IN_PROGRESS
    await desk.admission.announce(desk.tenant, "key_a", 2)
    assert await desk.verdict(ask_in_shadow(epochs=Epochs(tenant=1, credential=1))) is Verdict.STALE


async def test_cached_rows_are_found_over_the_limit(desk: Desk) -> None:
    digest, limit = b"d" * 32, key_rate(1)
    lease = lease_of(await desk.admit(ask_in_shadow(rates=(limit,), cache_keys=(digest,))))
    await desk.settle(lease, fill=((digest, b"[1]"),))
    over = await desk.admit(ask_in_shadow(rates=(limit,), cache_keys=(digest, b"e" * 32)))
    assert (over.overrun, over.cached) == (Verdict.RATE_LIMITED, (b"[1]", None))


async def test_without_the_ledger_a_hard_cap_in_shadow_goes_uncounted(desk: Desk) -> None:
    desk.history.is_down = True
    assert lease_of(await desk.admit(ask_in_shadow(cost=11, quotas=(TEN,)))).quotas == ()
    with pytest.raises(EnforcementUnavailable):
        await desk.admit(ask(quotas=(TEN,)))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.tuples(st.integers(1, 14), st.sampled_from([0, 1, 7, 20, 60])), min_size=3, max_size=40))
async def test_it_reports_exactly_what_enforcement_refuses(
    store: Store, clock: FakeClock, history: FakeHistory, script: list[tuple[int, int]]
) -> None:
    """The same requests at the same instants, one tenant enforced and its twin in shadow."""
    number = next(_twins)
    enforced = Desk(store.open(), clock, history, TenantId(f"ten_enforced_{number}"))
    shadow = Desk(store.open(), clock, history, TenantId(f"ten_shadow_{number}"))
    rates = (key_rate(12), tenant_rate(20))
    for cost, wait_s in script:
        clock.advance(wait_s)
        refused = await enforced.admit(ask(cost=cost, rates=rates))
        let_through = await shadow.admit(ask_in_shadow(cost=cost, rates=rates))
        assert let_through.verdict is Verdict.ADMITTED
        assert let_through.overrun is (None if refused.verdict is Verdict.ADMITTED else refused.verdict)
        assert let_through.standing == refused.standing
