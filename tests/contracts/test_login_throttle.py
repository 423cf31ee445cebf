"""Failed logins, in one body over every adapter of the throttle."""

import asyncio

import pytest

from backend.services.ports import LoginThrottle
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

VICTIM, ATTACKER, HOME = "victim@example.com", "198.51.100.7", "203.0.113.1"
A_DAY_S = 86_400


async def fail(throttle: LoginThrottle, times: int, *, account: str = VICTIM, address: str = ATTACKER) -> None:
    for _ in range(times):
        await throttle.failed(account, address)


async def test_a_few_mistakes_are_free(throttle: LoginThrottle) -> None:
    assert await throttle.delay_s(VICTIM, HOME) == 0
    await fail(throttle, 5, address=HOME)
    assert await throttle.delay_s(VICTIM, HOME) == 0


async def test_then_the_delay_doubles_up_to_a_quarter_of_an_hour(throttle: LoginThrottle) -> None:
    await fail(throttle, 5)
    delays = []
    for _ in range(13):
        await throttle.failed(VICTIM, ATTACKER)
        delays.append(await throttle.delay_s(VICTIM, ATTACKER))
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_the_delay_runs_down(throttle: LoginThrottle, clock: FakeClock) -> None:
    await fail(throttle, 9)
    assert await throttle.delay_s(VICTIM, ATTACKER) == 8
    clock.advance(5.5)
    assert await throttle.delay_s(VICTIM, ATTACKER) == 3
    clock.advance(2.5)
    assert await throttle.delay_s(VICTIM, ATTACKER) == 0


async def test_patience_does_not_start_over(throttle: LoginThrottle, clock: FakeClock) -> None:
    await fail(throttle, 10)
    clock.advance(20)
    await throttle.failed(VICTIM, ATTACKER)
    assert await throttle.delay_s(VICTIM, ATTACKER) == 32


async def test_a_day_later_all_is_forgotten(throttle: LoginThrottle, clock: FakeClock) -> None:
    await fail(throttle, 50)
    clock.advance(A_DAY_S)
    await fail(throttle, 5)
    assert await throttle.delay_s(VICTIM, ATTACKER) == 0


async def test_p6_nobody_elsewhere_is_made_to_wait_more_than_seconds(throttle: LoginThrottle, clock: FakeClock) -> None:
    await fail(throttle, 500)
    waited_s = await throttle.delay_s(VICTIM, HOME)
    assert 0 < waited_s <= 4
    clock.advance(waited_s)
    assert await throttle.delay_s(VICTIM, HOME) == 0


async def test_p6_who_tries_from_many_networks_is_slowed_down_too(throttle: LoginThrottle) -> None:
    for number in range(10):
        await throttle.failed(VICTIM, f"198.51.100.{number}")
    assert await throttle.delay_s(VICTIM, "192.0.2.9") == 4


async def test_p6_where_the_owner_signs_in_others_failures_do_not_count(throttle: LoginThrottle) -> None:
    await throttle.succeeded(VICTIM, HOME)
    await fail(throttle, 500)
    assert await throttle.delay_s(VICTIM, HOME) == 0
    await fail(throttle, 7, address=HOME)
    assert await throttle.delay_s(VICTIM, HOME) == 2


async def test_signing_in_forgets_the_accounts_failures(throttle: LoginThrottle) -> None:
    await fail(throttle, 8)
    await throttle.succeeded(VICTIM, HOME)
    assert await throttle.delay_s(VICTIM, "192.0.2.9") == 0
    assert await throttle.delay_s(VICTIM, ATTACKER) > 0
    await fail(throttle, 8, address=HOME)
    await throttle.succeeded(VICTIM, HOME)
    await fail(throttle, 1, address="192.0.2.9")
    assert await throttle.delay_s(VICTIM, "192.0.2.9") == 0


async def test_one_network_that_tries_many_accounts_is_slowed_down(throttle: LoginThrottle) -> None:
    for number in range(10):
        await throttle.failed(f"user{number}@example.com", ATTACKER)
    assert await throttle.delay_s("nobody@example.com", ATTACKER) == 16
    assert await throttle.delay_s("user3@example.com", HOME) == 0


async def test_signing_in_to_ones_own_account_does_not_clear_the_network(throttle: LoginThrottle) -> None:
    for number in range(10):
        await throttle.failed(f"user{number}@example.com", ATTACKER)
    await throttle.succeeded("attacker@example.com", ATTACKER)
    assert await throttle.delay_s("nobody@example.com", ATTACKER) == 16


async def test_an_office_behind_one_address_is_forgiven_soon(throttle: LoginThrottle, clock: FakeClock) -> None:
    for number in range(60):
        clock.advance(60)
        await throttle.failed(f"user{number}@example.com", HOME)
    assert await throttle.delay_s("user99@example.com", HOME) == 0


@pytest.mark.parametrize(
    ("seen", "also"),
    [("2001:db8:1:2:aaaa::1", "2001:db8:1:2:bbbb::2"), ("::ffff:198.51.100.7", "198.51.100.7")],
    ids=["one-subscriber", "ipv4-mapped"],
)
async def test_an_address_cannot_be_changed_at_will(throttle: LoginThrottle, seen: str, also: str) -> None:
    await fail(throttle, 8, address=seen)
    assert await throttle.delay_s(VICTIM, also) == 4
    await fail(throttle, 1, address=also)
    assert await throttle.delay_s(VICTIM, seen) == 8


async def test_failures_at_once_are_all_counted(throttle: LoginThrottle) -> None:
    await asyncio.gather(*[throttle.failed(VICTIM, ATTACKER) for _ in range(12)])
    assert await throttle.delay_s(VICTIM, ATTACKER) == 64
