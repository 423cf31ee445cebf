"""Properties of GCRA, quotas and periods."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.limits import (
    NOTHING_OWED,
    QuotaRule,
    QuotaState,
    RateLevel,
    RateRule,
    RateState,
    decide_rates,
    owed_rows,
    period_end_s,
    period_of,
    period_start,
    period_start_s,
    rate_states,
    whole_seconds,
)
from backend.domain.plans import QuotaMode

NOW_S = datetime(2026, 7, 15, 12, tzinfo=UTC).timestamp()

rules = st.builds(
    RateRule,
    scope=st.sampled_from(["key", "tenant", "model"]),
    subject=st.just("x"),
    per_window=st.integers(1, 1_000_000),
    window_s=st.sampled_from([1, 10, 60, 3600]),
)
# Multiples of 1/1024 s are exact in a double, so that the reference in fractions sees the same instants.
gaps_s = st.integers(0, 100_000).map(lambda n: n / 1024)
arrivals = st.lists(st.tuples(gaps_s, st.integers(1, 300)), max_size=40)
small_rules = st.builds(
    RateRule,
    scope=st.just("key"),
    subject=st.just("x"),
    per_window=st.integers(1, 300),
    window_s=st.sampled_from([1, 60]),
)


def rate_state(rule: RateRule, level: RateLevel, now_s: float) -> RateState:
    (state,) = rate_states((rule,), (level,), now_s)
    return state


def admit_all(rule: RateRule, level: RateLevel, costs: list[int], now_s: float) -> tuple[list[bool], RateLevel]:
    answers = []
    for cost in costs:
        decision = decide_rates((rule,), (level,), cost, now_s)
        (level,) = decision.levels
        answers.append(decision.allowed)
    return answers, level


@given(rule=small_rules, arriving=arrivals)
def test_it_decides_as_virtual_scheduling_does(rule: RateRule, arriving: list[tuple[float, int]]) -> None:
    level, tat, now_s = NOTHING_OWED, Fraction(0), NOW_S
    for gap_s, cost in arriving:
        now_s += gap_s
        new_tat = max(tat, Fraction(now_s)) + Fraction(cost * rule.window_s, rule.per_window)
        conforms = new_tat - rule.window_s <= Fraction(now_s)
        decision = decide_rates((rule,), (level,), cost, now_s)
        assert decision.allowed == conforms
        if conforms:
            tat = new_tat
        (level,) = decision.levels
        left = (Fraction(rule.window_s) - max(Fraction(0), tat - Fraction(now_s))) * rule.per_window / rule.window_s
        assert decision.states[0].remaining == max(0, math.floor(left))


@given(rule=small_rules, arriving=arrivals)
def test_no_interval_ever_sees_more_than_a_burst_and_its_refill(
    rule: RateRule, arriving: list[tuple[float, int]]
) -> None:
    level, now_s = NOTHING_OWED, NOW_S
    passed: list[tuple[float, int]] = []
    for gap_s, cost in arriving:
        now_s += gap_s
        decision = decide_rates((rule,), (level,), cost, now_s)
        (level,) = decision.levels
        if decision.allowed:
            passed.append((now_s, cost))
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            rows = sum(cost for _, cost in passed[first : last + 1])
            elapsed_s = passed[last][0] - passed[first][0]
            assert rows <= rule.per_window + elapsed_s * rule.per_window / rule.window_s + 1e-5


@pytest.mark.parametrize("per_window", [1, 60, 30_000, 600_000])
def test_exactly_the_limit_passes_at_one_instant_however_large(per_window: int) -> None:
    # Not a round instant: a time of arrival in seconds since 1970 would drift here by a row in a thousand.
    rule, now_s = RateRule(scope="key", subject="x", per_window=per_window), NOW_S + 0.123457
    answers, level = admit_all(rule, NOTHING_OWED, [1] * (per_window + 3), now_s)
    assert answers == [True] * per_window + [False] * 3
    assert rate_state(rule, level, now_s).remaining == 0


@given(rule=rules, owed=st.floats(0, 1_000_000), gap_s=st.floats(0, 100))
def test_what_is_said_to_remain_can_be_spent(rule: RateRule, owed: float, gap_s: float) -> None:
    level, now_s = RateLevel(min(owed, rule.per_window), NOW_S), NOW_S + gap_s
    remaining = rate_state(rule, level, now_s).remaining
    assert decide_rates((rule,), (level,), remaining, now_s).allowed


@given(rule=small_rules, owed=st.integers(0, 300), gap_s=gaps_s)
def test_and_not_a_row_more(rule: RateRule, owed: int, gap_s: float) -> None:
    level, now_s = RateLevel(min(owed, rule.per_window), NOW_S), NOW_S + gap_s
    remaining = rate_state(rule, level, now_s).remaining
    assert not decide_rates((rule,), (level,), remaining + 1, now_s).allowed


@given(rule=rules, owed=st.floats(0, 1_000_000))
def test_after_reset_it_is_whole_again(rule: RateRule, owed: float) -> None:
    level = RateLevel(min(owed, rule.per_window), NOW_S)
    state = rate_state(rule, level, NOW_S)
    assert rate_state(rule, level, NOW_S + state.reset_s).remaining == rule.per_window
    assert state.reset_s <= rule.window_s


@given(rule=rules, owed=st.floats(0, 1_000_000), cost=st.integers(1, 1_000_000))
def test_who_waits_as_told_passes(rule: RateRule, owed: float, cost: int) -> None:
    level = RateLevel(min(owed, rule.per_window), NOW_S)
    decision = decide_rates((rule,), (level,), min(cost, rule.per_window), NOW_S)
    later_s = NOW_S + whole_seconds(decision.retry_after_s)
    assert decide_rates((rule,), (level,), min(cost, rule.per_window), later_s).allowed


@given(rule=small_rules, owed=st.integers(0, 300), cost=st.integers(1, 400))
def test_who_waits_less_does_not(rule: RateRule, owed: int, cost: int) -> None:
    level = RateLevel(min(owed, rule.per_window), NOW_S)
    decision = decide_rates((rule,), (level,), cost, NOW_S)
    if decision.allowed:
        assert decision.retry_after_s == 0
    elif cost > rule.per_window:
        assert decision.retry_after_s == rule.window_s
    else:
        assert not decide_rates((rule,), (level,), cost, NOW_S + decision.retry_after_s * 0.99).allowed


@given(pairs=st.lists(st.tuples(small_rules, st.integers(0, 300)), max_size=4), cost=st.integers(1, 300), gap_s=gaps_s)
def test_all_limits_pay_or_none(pairs: list[tuple[RateRule, int]], cost: int, gap_s: float) -> None:
    several = tuple(rule for rule, _ in pairs)
    levels = tuple(RateLevel(min(owed, rule.per_window), NOW_S) for rule, owed in pairs)
    now_s = NOW_S + gap_s
    alone = [decide_rates((rule,), (level,), cost, now_s) for rule, level in zip(several, levels, strict=True)]
    together = decide_rates(several, levels, cost, now_s)
    assert together.allowed == all(one.allowed for one in alone)
    assert together.retry_after_s == max([one.retry_after_s for one in alone], default=0.0)
    if together.allowed:
        assert together.levels == tuple(one.levels[0] for one in alone)
    else:
        assert together.levels == levels
        unspent = tuple(rate_state(rule, level, now_s) for rule, level in zip(several, levels, strict=True))
        assert together.states == unspent


@given(rule=rules, owed=st.floats(0, 1_000), back_s=st.floats(0, 10_000))
def test_a_clock_that_steps_back_and_forth_drains_nothing_twice(rule: RateRule, owed: float, back_s: float) -> None:
    level = RateLevel(min(owed, rule.per_window), NOW_S)
    assert owed_rows(rule, level, NOW_S - back_s) == level.rows
    decision = decide_rates((rule,), (level,), 0, NOW_S - back_s)
    assert decision.levels == (level,)


def test_a_limit_of_nothing_admits_nothing() -> None:
    rule = RateRule(scope="key", subject="x", per_window=0)
    decision = decide_rates((rule,), (NOTHING_OWED,), 1, NOW_S)
    assert (decision.allowed, decision.retry_after_s) == (False, 60)
    assert (decision.states[0].remaining, decision.states[0].reset_s) == (0, 0)


def test_no_limits_admit_everything() -> None:
    assert decide_rates((), (), 10**9, NOW_S).allowed


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.1, 2), (59.5, 60)])
def test_waits_are_told_in_whole_seconds(wait_s: float, told: int) -> None:
    assert whole_seconds(wait_s) == told


# Quotas

quota_states = st.builds(
    QuotaState,
    rule=st.builds(
        QuotaRule,
        scope=st.just("tenant"),
        subject=st.just("x"),
        limit=st.none() | st.integers(0, 1000),
        mode=st.sampled_from(QuotaMode),
    ),
    used=st.integers(0, 1200),
    reserved=st.integers(0, 200),
    resets_at_s=st.just(0),
)


@given(state=quota_states, cost=st.integers(1, 1000))
def test_a_hard_cap_admits_what_remains_and_no_row_more(state: QuotaState, cost: int) -> None:
    if not state.rule.must_hold:
        assert state.admits(cost)
    else:
        assert state.remaining is not None
        assert state.admits(cost) == (cost <= state.remaining)
        after = state.with_reserved(cost)
        assert after.remaining == max(0, state.remaining - cost)
    assert replace(state.with_reserved(cost), reserved=state.reserved) == state


@pytest.mark.parametrize(
    ("limit", "mode", "holds"), [(5, QuotaMode.HARD, True), (5, QuotaMode.SOFT, False), (None, QuotaMode.HARD, False)]
)
def test_only_a_hard_cap_must_hold(limit: int | None, mode: QuotaMode, *, holds: bool) -> None:
    assert QuotaRule(scope="key", subject="x", limit=limit, mode=mode).must_hold is holds


# Periods

instants = st.floats(0, 7e9).map(lambda instant_s: datetime.fromtimestamp(instant_s, UTC))


@given(at=instants)
def test_an_instant_lies_in_its_period(at: datetime) -> None:
    period = period_of(at.timestamp())
    assert period == at.strftime("%Y-%m")
    assert period_start_s(period) <= at.timestamp() < period_end_s(period)
    assert period_start(period).timestamp() == period_start_s(period)


@given(at=instants)
def test_periods_follow_each_other_without_a_gap(at: datetime) -> None:
    period = period_of(at.timestamp())
    end_s = period_end_s(period)
    assert period_of(end_s - 1) == period
    following = period_of(end_s)
    assert period_start_s(following) == end_s
    assert following > period


@pytest.mark.parametrize(
    ("period", "days"), [("2026-02", 28), ("2028-02", 29), ("2100-02", 28), ("2026-04", 30), ("2026-12", 31)]
)
def test_months_have_their_own_lengths(period: str, days: int) -> None:
    assert period_end_s(period) - period_start_s(period) == timedelta(days=days).total_seconds()
