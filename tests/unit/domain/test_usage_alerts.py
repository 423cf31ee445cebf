"""Thresholds of quotas."""

import pytest
from hypothesis import given
from hypothesis.strategies import integers

from backend.domain.api_keys import Environment
from backend.domain.plans import QuotaMode
from backend.domain.usage_alerts import THRESHOLDS, QuotaUse


def use(units: int, limit: int) -> QuotaUse:
    return QuotaUse(
        period="2026-07",
        environment=Environment.LIVE,
        scope="tenant",
        subject="ten_1",
        units=units,
        limit=limit,
        mode=QuotaMode.HARD,
    )


@pytest.mark.parametrize(
    ("units", "limit", "reached"),
    [
        (0, 100, ()),
        (49, 100, ()),
        (50, 100, (50,)),
        (79, 100, (50,)),
        (80, 100, (50, 80)),
        (99, 100, (50, 80)),
        (100, 100, (50, 80, 100)),
        (1000, 100, (50, 80, 100)),
        (1, 3, ()),
        (2, 3, (50,)),
        (0, 0, ()),
        (5, 0, ()),
        (2**62, 2**62 + 1, (50, 80)),
    ],
)
def test_a_threshold_is_reached_exactly(units: int, limit: int, reached: tuple[int, ...]) -> None:
    assert use(units, limit).reached() == reached


@given(integers(0, 10**12), integers(1, 10**12))
def test_more_use_never_reaches_less(units: int, limit: int) -> None:
    assert set(use(units, limit).reached()) <= set(use(units + 1, limit).reached()) <= set(THRESHOLDS)
