"""Prices as arithmetic: what each model costs, and what must hold of them for any numbers (LEDGER.md R12, R13)."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.pricing import (
    FREE,
    Package,
    Pricing,
    PricingModel,
    Rate,
    Tier,
    graduated,
    packaged,
    round_micros,
    share_of_fee,
    usage_price,
    volume,
)

units = st.integers(0, 10**12)
rates = st.builds(Rate, micros=st.integers(0, 10**9), per_units=st.sampled_from((1, 3, 1000, 1_000_000)))


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Draw tiers that rise, the last one without an end."""
    edges = sorted(draw(st.sets(st.integers(1, 10**9), max_size=5)))
    fees = st.integers(0, 10**9)
    return tuple(Tier(up_to=edge, rate=draw(rates), flat_micros=draw(fees)) for edge in (*edges, None))


pricings = st.builds(
    Pricing,
    included_units=st.integers(0, 10**6),
    model=st.sampled_from(PricingModel),
    rate=rates,
    tiers=tiers(),
    package=st.builds(Package, units=st.integers(1, 10**6), micros=st.integers(0, 10**9)),
)
TIERS = (
    Tier(up_to=100, rate=Rate(micros=10), flat_micros=1_000),
    Tier(up_to=200, rate=Rate(micros=5)),
    Tier(up_to=None, rate=Rate(micros=1), flat_micros=7),
)


@pytest.mark.parametrize(
    ("used", "cost"),
    [(0, 0), (1, 1_010), (100, 2_000), (101, 2_005), (200, 2_500), (201, 2_508), (1_000, 2_500 + 7 + 800)],
)
def test_r13_graduated_units_each_cost_what_their_tier_says(used: int, cost: int) -> None:
    assert graduated(TIERS, 0, used) == cost


@pytest.mark.parametrize(
    ("used", "cost"), [(0, 0), (1, 1_010), (100, 2_000), (101, 505), (200, 1_000), (201, 208), (1_000, 1_007)]
)
def test_r13_volume_units_all_cost_what_the_totals_tier_says(used: int, cost: int) -> None:
    assert volume(TIERS, used) == cost


@pytest.mark.parametrize(("used", "cost"), [(0, 0), (1, 500), (10, 500), (11, 1_000), (20, 1_000), (21, 1_500)])
def test_r13_a_package_that_is_begun_is_paid_whole(used: int, cost: int) -> None:
    assert packaged(Package(units=10, micros=500), used) == cost


def test_r13_included_units_cost_nothing_and_the_tiers_begin_after_them() -> None:
    pricing = Pricing(included_units=50, model=PricingModel.GRADUATED, tiers=TIERS)
    assert [usage_price(pricing, used) for used in (0, 50, 51, 150, 151)] == [0, 0, 1_010, 2_000, 2_005]


def test_r13_a_flat_plan_costs_its_fee_alone() -> None:
    assert usage_price(FREE, 10**9) == 0
    assert usage_price(Pricing(flat_fee_micros=5), 10**9) == 0


@given(tiers=tiers(), cuts=st.lists(st.integers(0, 10**10), min_size=2, max_size=8).map(sorted))
def test_r13_splitting_the_usage_never_changes_a_graduated_sum(tiers: tuple[Tier, ...], cuts: list[int]) -> None:
    parts = [graduated(tiers, start, end) for start, end in pairwise([0, *cuts])]
    assert sum(parts) == graduated(tiers, 0, cuts[-1])


@given(pricing=pricings, fewer=units, more=units)
def test_r13_more_units_never_cost_less_but_at_the_edge_of_a_volume_tier(
    pricing: Pricing, fewer: int, more: int
) -> None:
    fewer, more = sorted((fewer, more))
    if pricing.model is PricingModel.VOLUME:
        edges = [tier.up_to for tier in pricing.tiers if tier.up_to is not None]
        if any(fewer - pricing.included_units <= edge < more - pricing.included_units for edge in edges):
            return
    assert usage_price(pricing, fewer) <= usage_price(pricing, more)


@given(tiers=tiers(), used=st.integers(1, 10**10))
def test_r13_a_volume_amount_is_that_of_one_tier_alone(tiers: tuple[Tier, ...], used: int) -> None:
    [tier] = [
        each
        for below, each in zip((0, *(tier.up_to for tier in tiers)), tiers, strict=False)
        if (below or 0) < used and (each.up_to is None or used <= each.up_to)
    ]
    assert volume(tiers, used) == tier.rate.of(used) + tier.flat_micros


@given(package=st.builds(Package, units=st.integers(1, 10**6), micros=st.integers(0, 10**9)), used=units)
def test_r13_packages_hold_all_units_and_no_package_is_empty(package: Package, used: int) -> None:
    amount = packaged(package, used)
    if package.micros:
        count = amount / package.micros
        assert count.denominator == 1
        assert (count - 1) * package.units < used <= count * package.units or (count == 0 and used == 0)


@given(amount=st.fractions(max_denominator=10**6))
def test_r12_rounding_is_to_the_nearest_micro_and_the_same_for_a_credit(amount: Fraction) -> None:
    rounded = round_micros(amount)
    assert isinstance(rounded, int)
    assert abs(rounded - amount) <= Fraction(1, 2)
    assert round_micros(-amount) == -rounded


@pytest.mark.parametrize(
    ("amount", "rounded"), [("0", 0), ("1/2", 1), ("3/2", 2), ("5/2", 3), ("-1/2", -1), ("49/100", 0), ("1/3", 0)]
)
def test_r12_halves_are_rounded_away_from_zero(amount: str, rounded: int) -> None:
    assert round_micros(Fraction(amount)) == rounded


def test_r12_a_price_below_a_micro_a_unit_is_exact_until_the_end() -> None:
    rate = Rate(micros=1, per_units=1_000)
    assert round_micros(sum((rate.of(1) for _ in range(1_000)), Fraction(0))) == 1
    assert round_micros(rate.of(1_499)) == 1
    assert round_micros(rate.of(1_500)) == 2


@given(fee=st.integers(0, 10**12), cuts=st.lists(st.integers(0, 2_678_400), max_size=5).map(sorted))
def test_a_fee_that_is_shared_out_comes_to_the_whole_fee(fee: int, cuts: list[int]) -> None:
    seconds = 2_678_400
    bounds = pairwise([0, *cuts, seconds])
    assert sum(share_of_fee(fee, active_s=end - start, period_s=seconds) for start, end in bounds) == fee
