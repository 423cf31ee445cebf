"""R17: readings are numbered, their instants grow within the period, and the same one is never made twice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis.strategies import booleans, integers, lists, tuples

from backend.domain.ids import TenantId
from backend.domain.usage_pushes import (
    LEASE,
    LONGEST_WAIT_S,
    BillerCustomer,
    PeriodTotal,
    UsagePush,
    next_push,
    periods_to_push,
)

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)
CUSTOMER = BillerCustomer(tenant_id=TenantId("ten_01JD0000000000000000000000"), customer_id="cus_1")


def total(units: int, *, is_closed: bool = False) -> PeriodTotal:
    return PeriodTotal(billable_units=units, is_closed=is_closed)


def first(units: int = 5, at: datetime = NOW) -> UsagePush:
    push = next_push(None, CUSTOMER, "2026-07", total(units), at)
    assert push is not None
    return push


def test_nothing_is_said_of_nothing() -> None:
    assert next_push(None, CUSTOMER, "2026-07", total(0), NOW) is None


def test_a_reading_belongs_to_whoever_sends_it_and_is_then_the_same_again() -> None:
    push = first()
    assert next_push(push, CUSTOMER, "2026-07", total(9), NOW + LEASE / 2) is None
    again = next_push(push, CUSTOMER, "2026-07", total(5), NOW + LEASE)
    assert again is not None
    assert again.reading == push.reading
    assert again.attempts == 2


def test_what_was_taken_is_not_said_again_unless_it_changes_or_is_final() -> None:
    taken = first().taken(NOW)
    assert next_push(taken, CUSTOMER, "2026-07", total(5), NOW) is None
    more = next_push(taken, CUSTOMER, "2026-07", total(6), NOW)
    final = next_push(taken, CUSTOMER, "2026-07", total(5, is_closed=True), NOW)
    for each in (more, final):
        assert each is not None
        assert each.reading.identifier != taken.reading.identifier


def test_a_total_that_comes_back_is_a_reading_of_its_own() -> None:
    """A correction may take units back: what was said before must not hide what is said again."""
    up = next_push(first(5).taken(NOW), CUSTOMER, "2026-07", total(9), NOW)
    assert up is not None
    down = next_push(up.taken(NOW), CUSTOMER, "2026-07", total(5), NOW)
    assert down is not None
    assert down.reading.total == first(5).reading.total
    assert down.reading.identifier != first(5).reading.identifier


@given(lists(tuples(integers(0, 40 * 86_400), integers(0, 3), booleans()), min_size=1, max_size=40))
def test_instants_grow_and_stay_within_the_period(steps: list[tuple[int, int, bool]]) -> None:
    now, push, units = NOW, None, 1
    seen: list[datetime] = []
    for wait_s, more, is_taken in steps:
        now += timedelta(seconds=wait_s)
        units += more
        following = next_push(push, CUSTOMER, "2026-07", total(units), now)
        if following is not None:
            if push is None or following.reading != push.reading:
                seen.append(following.reading.at)
            push = following.taken(now) if is_taken else following
    assert seen == sorted(set(seen))
    assert all(datetime(2026, 7, 1, tzinfo=UTC) <= at < datetime(2026, 8, 1, tzinfo=UTC) for at in seen)
    assert all(at.microsecond == 0 for at in seen)


def test_waits_grow_to_an_hour_and_the_biller_may_ask_for_more() -> None:
    push = first()
    waits = []
    for attempts in range(1, 15):
        failed = replace(push, attempts=attempts).failed("timeout", NOW, retry_after_s=None)
        assert failed.next_attempt_at is not None
        waits.append((failed.next_attempt_at - NOW).total_seconds())
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (30, LONGEST_WAIT_S)
    asked = push.failed("refused with 429", NOW, retry_after_s=300)
    assert asked.next_attempt_at == NOW + timedelta(seconds=300)


def test_an_identifier_is_short_enough_for_stripe() -> None:
    huge = replace(first().reading, number=10**9, total=10**18)
    assert len(huge.identifier) <= 100


def test_this_month_the_last_and_what_is_unfinished_are_looked_at() -> None:
    assert periods_to_push(datetime(2026, 1, 31, tzinfo=UTC), frozenset()) == ("2025-12", "2026-01")
    unfinished = frozenset({"2025-11", "2026-03"})
    assert periods_to_push(datetime(2026, 3, 31, tzinfo=UTC), unfinished) == ("2025-11", "2026-02", "2026-03")
