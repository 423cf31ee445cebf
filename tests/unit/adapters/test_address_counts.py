"""slowapi's counts without a thread: what they let through, and what they forget. Windows are hours: none ends here."""

import threading

from limits import parse
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from slowapi import Limiter

from backend.api.address_counts import SCHEME, MovingWindows

HOURLY = parse("3/hour")


def limiter(most: int = 100) -> MovingWindowRateLimiter:
    return MovingWindowRateLimiter(MovingWindows(most=most))


def test_slowapi_finds_it_by_its_name() -> None:
    assert isinstance(storage_from_string(f"{SCHEME}://"), MovingWindows)
    found = Limiter(key_func=str, strategy="moving-window", storage_uri=f"{SCHEME}://").limiter
    assert isinstance(found, MovingWindowRateLimiter)


def test_so_many_requests_pass_and_no_more() -> None:
    counts = limiter()
    assert [counts.hit(HOURLY, "token", "a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert counts.hit(HOURLY, "token", "b")
    assert counts.hit(HOURLY, "reset", "a")


def test_what_is_over_counts_no_more() -> None:
    counts = limiter()
    storage = counts.storage
    assert isinstance(storage, MovingWindows)
    name = HOURLY.key_for("token", "a")
    for _ in range(3):
        assert storage.acquire_entry(name, 3, 3600)
    assert not storage.acquire_entry(name, 3, 3600)
    # A window that begins in the future holds nothing of what was.
    assert storage.acquire_entry(name, 3, -3600)
    assert storage.get_moving_window(name, 3, 3600)[1] == 1


def test_it_says_since_when_it_counts() -> None:
    counts = limiter()
    before, full = counts.get_window_stats(HOURLY, "token", "a")
    counts.hit(HOURLY, "token", "a")
    first, left = counts.get_window_stats(HOURLY, "token", "a")
    counts.hit(HOURLY, "token", "a")
    assert (full, left) == (3, 2)
    assert before <= first
    assert counts.get_window_stats(HOURLY, "token", "a") == (first, 1)


def test_several_at_once_are_let_through_or_not_one_of_them() -> None:
    counts = limiter()
    assert counts.hit(HOURLY, "token", "a", cost=2)
    assert not counts.hit(HOURLY, "token", "a", cost=2)
    assert counts.hit(HOURLY, "token", "a")


def test_the_address_that_was_seen_least_lately_goes_when_there_are_too_many() -> None:
    counts = limiter(most=2)
    for address in ("a", "a", "b", "a", "c"):
        assert counts.hit(HOURLY, "token", address)
    assert not counts.hit(HOURLY, "token", "a")
    assert counts.get_window_stats(HOURLY, "token", "b").remaining == 3
    storage = counts.storage
    assert isinstance(storage, MovingWindows)
    assert storage.reset() == 2
    assert counts.hit(HOURLY, "token", "a")


def test_p3_a_request_that_is_counted_starts_no_thread() -> None:
    counts = limiter()
    before = set(threading.enumerate())
    for number in range(20):
        counts.hit(HOURLY, "token", str(number))
        assert set(threading.enumerate()) <= before
