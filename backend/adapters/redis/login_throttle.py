"""Slowing down failed logins, shared by many processes."""

import asyncio
import struct

from backend.adapters.redis import keys
from backend.adapters.redis.line import Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.domain.clock import Clock, SystemClock
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


class RedisLoginThrottle:
    """Implements ``LoginThrottle``. See ``domain/login_delays.py`` for what waits for what.

    Delays are long and clocks differ by little, so each process uses its own.

    Args:
        runner: the way to Redis, which bounds each call and may be shared.
        clock: decides delays; the machine's by default.
    """

    def __init__(self, runner: ScriptRunner, *, clock: Clock | None = None) -> None:
        self._redis = runner
        self._clock = clock or SystemClock()
        self._count = Script("count_failure")
        self._trust = Script("trust_login")

    async def delay_s(self, account: str, address: str) -> int:
        """Return how many seconds the caller has to wait; 0 when it may try now.

        Raises:
            EnforcementUnavailable: Redis does not answer.
        """
        network = network_of(address)
        pair, by_account, trust, by_network = await self._redis.read(
            [
                keys.login_pair(account, network),
                keys.login_account(account),
                keys.login_trust(account, network),
                keys.login_network(network),
            ]
        )
        return login_wait_s(
            pair=_level(pair),
            address=_level(by_network),
            account=_level(by_account),
            trusted=trust is not None,
            now_s=self._clock.now_s(),
        )

    async def failed(self, account: str, address: str) -> None:
        """Note a failed attempt.

        Raises:
            EnforcementUnavailable: Redis does not answer.
        """
        network, now_s = network_of(address), repr(self._clock.now_s())
        of_account: list[str | bytes] = [keys.login_pair(account, network), keys.login_account(account)]
        of_network: list[str | bytes] = [keys.login_network(network)]
        # Two calls, because an account and a network live in different slots of a cluster.
        await asyncio.gather(
            self._redis.run(self._count, of_account, [now_s, *_rule(PAIR_DELAY), *_rule(ACCOUNT_DELAY)]),
            self._redis.run(self._count, of_network, [now_s, *_rule(ADDRESS_DELAY)]),
        )

    async def succeeded(self, account: str, address: str) -> None:
        """Forget the account's failures. The network's own count stays.

        Otherwise somebody with one account could try all the others, signing in to their own in between.

        Raises:
            EnforcementUnavailable: Redis does not answer.
        """
        network = network_of(address)
        touched: list[str | bytes] = [
            keys.login_trust(account, network),
            keys.login_pair(account, network),
            keys.login_account(account),
        ]
        await self._redis.run(self._trust, touched, [TRUSTED_FOR_S])


def _level(stored: bytes | int | None) -> FailureLevel:
    return FailureLevel(*struct.unpack(">dd", stored)) if isinstance(stored, bytes) else NO_FAILURES


def _rule(delay: LoginDelay) -> tuple[int, int, int]:
    return delay.forgiven_each_s, delay.most, delay.memory_s
