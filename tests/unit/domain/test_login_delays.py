"""The arithmetic of waiting after failed logins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.login_delays import (
    ACCOUNT_DELAY,
    ADDRESS_DELAY,
    NO_FAILURES,
    PAIR_DELAY,
    FailureLevel,
    LoginDelay,
    login_wait_s,
    network_of,
)

delays = st.sampled_from([PAIR_DELAY, ADDRESS_DELAY, ACCOUNT_DELAY])


@given(delay=delays, gaps_s=st.lists(st.floats(0, 100_000), max_size=40))
def test_no_wait_is_longer_than_the_longest(delay: LoginDelay, gaps_s: list[float]) -> None:
    level, now_s = NO_FAILURES, 1e9
    for gap_s in gaps_s:
        now_s += gap_s
        level = delay.after_failure(level, now_s)
        assert 0 <= delay.wait_s(level, now_s) <= delay.longest_s
        assert level.failures <= delay.most


@given(delay=delays, failures=st.integers(0, 1000))
def test_after_its_memory_a_count_starts_over(delay: LoginDelay, failures: int) -> None:
    level = NO_FAILURES
    for _ in range(failures):
        level = delay.after_failure(level, 1e9)
    assert delay.after_failure(level, 1e9 + delay.memory_s) == FailureLevel(1, 1e9 + delay.memory_s)


def test_the_pairs_memory_is_a_day() -> None:
    assert PAIR_DELAY.memory_s == 86_400


def test_who_waits_as_told_may_try() -> None:
    level = FailureLevel(9, 1e9)
    wait_s = PAIR_DELAY.wait_s(level, 1e9 + 0.3)
    assert wait_s == 8
    assert PAIR_DELAY.wait_s(level, 1e9 + 0.3 + wait_s) == 0


def test_trust_spares_from_others_failures_and_not_from_ones_own() -> None:
    many = FailureLevel(9, 1e9)
    others = {"pair": NO_FAILURES, "address": NO_FAILURES, "account": many}
    assert login_wait_s(**others, trusted=False, now_s=1e9) == 4
    assert login_wait_s(**others, trusted=True, now_s=1e9) == 0
    assert login_wait_s(pair=many, address=NO_FAILURES, account=many, trusted=True, now_s=1e9) == 8
    assert login_wait_s(pair=NO_FAILURES, address=many, account=many, trusted=True, now_s=1e9) == 8


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_an_address_stands_for_its_network(address: str, network: str) -> None:
    assert network_of(address) == network
