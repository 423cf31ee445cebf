"""slowapi before the routes that ask for no credential: so many requests from one address, and then a pause.

It keeps its counts in memory and decides synchronously, so it stands on no route that predicts or manages. One
instance belongs to one application. How many a second address may send does not depend on the first: behind a proxy
that is not named in the settings all callers would share one count.
"""

import time
from enum import StrEnum

from fastapi import Request
from limits import RateLimitItem, parse
from slowapi import Limiter

from backend.api.address_counts import SCHEME
from backend.domain.errors import OAuthError, TooMany
from backend.domain.login_delays import network_of


def client_network(request: Request) -> str:
    """Return what is counted: the caller's address behind trusted proxies, an IPv6 subscriber as one."""
    return network_of(request.scope["client_address"] or "unknown")


class Surface(StrEnum):
    """What is counted apart."""

    TOKEN = "token"  # noqa: S105  # the endpoint's name
    REVOKE = "revoke"
    REGISTER = "register"
    CONFIRM = "confirm"
    FORGOT = "forgot"
    RESET = "reset"
    ACCEPT = "accept"


_OAUTH = frozenset({Surface.TOKEN, Surface.REVOKE})


class AddressThrottle:
    """The counts of one application."""

    def __init__(self, *, login_rate: str, anonymous_rate: str) -> None:
        self._limiter = Limiter(key_func=client_network, strategy="moving-window", storage_uri=f"{SCHEME}://")
        self._login_rate = parse(login_rate)
        self._anonymous_rate = parse(anonymous_rate)

    def require(self, surface: Surface, network: str) -> None:
        """Count one request.

        Raises:
            TooMany: there were too many; on the OAuth endpoints the same as an ``OAuthError``.
        """
        rate = self._rate_of(surface)
        if self._limiter.limiter.hit(rate, surface.value, network):
            return
        until_s = self._limiter.limiter.get_window_stats(rate, surface.value, network).reset_time
        wait_s = max(1, int(until_s - time.time()) + 1)
        if surface in _OAUTH:
            raise OAuthError("slow_down", "Too many requests from this address.", retry_after_s=wait_s)
        raise TooMany("Too many requests from this address.", retry_after_s=wait_s)

    def _rate_of(self, surface: Surface) -> RateLimitItem:
        return self._login_rate if surface in _OAUTH else self._anonymous_rate


class Throttled:
    """A dependency that counts a request of one surface. The architecture test reads ``surface`` off it."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface

    async def __call__(self, request: Request) -> None:
        """Count the request, or refuse it."""
        throttle: AddressThrottle = request.app.state.address_throttle
        throttle.require(self.surface, client_network(request))
