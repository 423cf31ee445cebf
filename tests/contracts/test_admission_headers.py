"""What callers are told holds, to the row and to the second: found out by doing as told, over every adapter."""

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.domain.admission import Verdict
from backend.domain.ids import TenantId
from tests.contracts.asking import Desk, ask, key_rate, tenant_quota, tenant_rate
from tests.contracts.stores import Store
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

_tenants = itertools.count()
NewDesk = Callable[[], Desk]
LIMITS = st.integers(1, 700)
SPENDING = st.lists(st.tuples(st.integers(1, 90), st.integers(0, 40)), max_size=12)
property_settings = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def new_desk(store: Store, clock: FakeClock, history: FakeHistory) -> NewDesk:
    """Makes desks on the same store, each for a tenant of its own."""
    return lambda: Desk(store.open(), clock, history, TenantId(f"ten_told_{next(_tenants)}"))


async def spent(desk: Desk, limit: int, spending: list[tuple[int, int]]) -> None:
    for cost, quarters in spending:
        await desk.admit(ask(cost=cost, rates=(key_rate(limit),)))
        desk.clock.advance(quarters / 4)


@property_settings
@given(limit=LIMITS, spending=SPENDING)
async def test_all_that_remains_can_be_spent_and_not_a_row_more(
    new_desk: NewDesk, limit: int, spending: list[tuple[int, int]]
) -> None:
    desk, rule = new_desk(), key_rate(limit)
    await spent(desk, limit, spending)
    remaining = await desk.remaining(rule)
    assert await desk.verdict(ask(cost=remaining + 1, rates=(rule,))) is Verdict.RATE_LIMITED
    if remaining:
        decision = await desk.admit(ask(cost=remaining, rates=(rule,)))
        assert (decision.verdict, decision.standing.rates[0].remaining) == (Verdict.ADMITTED, 0)


@property_settings
@given(limit=LIMITS, other=LIMITS, spending=SPENDING, cost=st.integers(1, 90))
async def test_whoever_waits_as_told_passes_and_a_second_earlier_does_not(
    new_desk: NewDesk, limit: int, other: int, spending: list[tuple[int, int]], cost: int
) -> None:
    desk, rules = new_desk(), (key_rate(limit), tenant_rate(other))
    for each, quarters in spending:
        await desk.admit(ask(cost=each, rates=rules))
        desk.clock.advance(quarters / 4)
    refused = await desk.admit(ask(cost=cost, rates=rules))
    if refused.retry_after_s is None:
        return
    if cost > min(limit, other):
        assert refused.retry_after_s == 60
        return
    desk.clock.advance(refused.retry_after_s - 1)
    if refused.retry_after_s > 1:
        assert await desk.verdict(ask(cost=cost, rates=rules)) is Verdict.RATE_LIMITED
    desk.clock.advance(1)
    assert await desk.verdict(ask(cost=cost, rates=rules)) is Verdict.ADMITTED


@property_settings
@given(limit=LIMITS, spending=SPENDING)
async def test_a_limit_is_whole_when_it_was_said_to_be_and_not_a_second_earlier(
    new_desk: NewDesk, limit: int, spending: list[tuple[int, int]]
) -> None:
    desk, rule = new_desk(), key_rate(limit)
    await spent(desk, limit, spending)
    [state] = (await desk.look(rates=(rule,))).rates
    if state.reset_s == 0:
        assert state.remaining == limit
        return
    desk.clock.advance(state.reset_s - 1)
    [nearly] = (await desk.look(rates=(rule,))).rates
    assert nearly.remaining < limit
    assert nearly.reset_s == 1
    desk.clock.advance(1)
    [whole] = (await desk.look(rates=(rule,))).rates
    assert (whole.remaining, whole.reset_s) == (limit, 0)


@pytest.mark.parametrize("before_s", [0.25, 1.0, 1.75, 86_400.5])
async def test_the_quota_is_whole_when_it_was_said_to_be(desk: Desk, before_s: float) -> None:
    quota = tenant_quota(5)
    ends_at_s = (await desk.look(quotas=(quota,))).quotas[0].resets_at_s
    desk.clock.advance(ends_at_s - before_s - desk.clock.now_s())
    await desk.spend(ask(cost=4, quotas=(quota,)))
    refused = await desk.admit(ask(cost=2, quotas=(quota,)))
    [state] = refused.standing.quotas
    assert (state.used, state.remaining, state.resets_at_s) == (4, 1, ends_at_s)
    assert refused.retry_after_s == math.ceil(before_s)
    desk.clock.advance(before_s)
    [fresh] = (await desk.look(quotas=(quota,))).quotas
    assert (fresh.used, fresh.remaining) == (0, 5)
