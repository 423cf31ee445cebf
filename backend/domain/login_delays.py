"""How long to wait after failed logins, as plain arithmetic. The adapters keep the state.

Three counts slow a guesser down, and none of them can shut an account's owner out for good:

=====================  ======================================================================================
account and network    up to a quarter of an hour; only the caller's own failures count
network                the same over all accounts, forgiven fast, because offices share one address
account                a few seconds at most, whoever fails; not for a network from which it signed in lately
=====================  ======================================================================================
"""

import ipaddress
import math
from dataclasses import dataclass
from typing import NamedTuple

TRUSTED_FOR_S = 30 * 86400
"""How long a successful login keeps its network free of the delay that others' failures cause."""


class FailureLevel(NamedTuple):
    """Failed logins not yet forgiven at ``at_s``, the instant of the last one (seconds since the epoch)."""

    failures: float
    at_s: float


NO_FAILURES = FailureLevel(0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginDelay:
    """Some failures are free, then it takes 1, 2, 4, … seconds from the last one.

    One failure is forgiven every ``forgiven_each_s`` seconds.
    """

    longest_s: int
    forgiven_each_s: int
    free: int = 5

    @property
    def most(self) -> int:
        """Failures beyond which counting stops: more would only take longer to forget."""
        return self.free + 1 + (self.longest_s - 1).bit_length()

    @property
    def memory_s(self) -> int:
        """Seconds after which nothing is left of any number of failures."""
        return self.most * self.forgiven_each_s

    def after_failure(self, level: FailureLevel, now_s: float) -> FailureLevel:
        """Return the level after one more failure."""
        forgiven = max(0.0, now_s - level.at_s) / self.forgiven_each_s
        return FailureLevel(min(self.most, max(0.0, level.failures - forgiven) + 1), now_s)

    def wait_s(self, level: FailureLevel, now_s: float) -> int:
        """Return the whole seconds still to wait; 0 when none."""
        beyond: int = math.ceil(level.failures) - self.free
        if beyond <= 0:
            return 0
        delay_s = min(self.longest_s, 1 << (beyond - 1))
        return max(0, math.ceil(level.at_s + delay_s - now_s))


PAIR_DELAY = LoginDelay(longest_s=900, forgiven_each_s=5400)
ADDRESS_DELAY = LoginDelay(longest_s=900, forgiven_each_s=60)
ACCOUNT_DELAY = LoginDelay(longest_s=4, forgiven_each_s=600)


def login_wait_s(
    *, pair: FailureLevel, address: FailureLevel, account: FailureLevel, trusted: bool, now_s: float
) -> int:
    """Return how many seconds a login has to wait under all three counts together."""
    own = max(PAIR_DELAY.wait_s(pair, now_s), ADDRESS_DELAY.wait_s(address, now_s))
    return own if trusted else max(own, ACCOUNT_DELAY.wait_s(account, now_s))


def network_of(address: str) -> str:
    """Return the network a caller stands for: an IPv4 address, or the /64 that one IPv6 subscriber owns."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, 64), strict=False))
