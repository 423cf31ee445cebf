"""Slowing down failed logins, in one process."""

from typing import TypeVar

from backend.adapters.memory.bounded_map import BoundedMap
from backend.domain.clock import Clock
from backend.domain.login_delays import (
    ACCOUNT_DELAY,
    ADDRESS_DELAY,
    NO_FAILURES,
    PAIR_DELAY,
    TRUSTED_FOR_S,
    FailureLevel,
    LoginDelay,
    login_wait_s,
    network_of,
)

K = TypeVar("K")


class MemoryLoginThrottle:
    """Implements ``LoginThrottle``. See ``domain/login_delays.py`` for what waits for what.

    Args:
        clock: decides delays.
        max_entries: bound on each count; the least recently seen is forgotten first.
    """

    def __init__(self, clock: Clock, *, max_entries: int = 100_000) -> None:
        self._clock = clock
        self._pairs: BoundedMap[tuple[str, str], FailureLevel] = BoundedMap(max_entries)
        self._addresses: BoundedMap[str, FailureLevel] = BoundedMap(max_entries)
        self._accounts: BoundedMap[str, FailureLevel] = BoundedMap(max_entries)
        self._trusted: BoundedMap[tuple[str, str], bool] = BoundedMap(max_entries)

    async def delay_s(self, account: str, address: str) -> int:
        """Return how many seconds the caller has to wait; 0 when it may try now."""
        now_s, network = self._clock.now_s(), network_of(address)
        return login_wait_s(
            pair=self._pairs.get((account, network), now_s) or NO_FAILURES,
            address=self._addresses.get(network, now_s) or NO_FAILURES,
            account=self._accounts.get(account, now_s) or NO_FAILURES,
            trusted=self._trusted.get((account, network), now_s) is True,
            now_s=now_s,
        )

    async def failed(self, account: str, address: str) -> None:
        """Note a failed attempt."""
        network = network_of(address)
        self._count(self._pairs, (account, network), PAIR_DELAY)
        self._count(self._addresses, network, ADDRESS_DELAY)
        self._count(self._accounts, account, ACCOUNT_DELAY)

    async def succeeded(self, account: str, address: str) -> None:
        """Forget the account's failures. The network's own count stays.

        Otherwise somebody with one account could try all the others, signing in to their own in between.
        """
        network = network_of(address)
        self._pairs.discard((account, network))
        self._accounts.discard(account)
        self._trusted.put((account, network), True, expires_at_s=self._clock.now_s() + TRUSTED_FOR_S)

    def _count(self, levels: BoundedMap[K, FailureLevel], name: K, delay: LoginDelay) -> None:
        now_s = self._clock.now_s()
        level = delay.after_failure(levels.get(name, now_s) or NO_FAILURES, now_s)
        levels.put(name, level, expires_at_s=now_s + delay.memory_s)
