"""The shared login throttle, with this process's own beside it: logins go on while the shared one is away."""

from contextlib import suppress

from backend.domain.errors import EnforcementUnavailable
from backend.services.ports import LoginThrottle


class FallbackLoginThrottle:
    """Implements ``LoginThrottle``.

    What happens here is noted here as well, always, so that whoever was being slowed down does not begin anew.
    """

    def __init__(self, shared: LoginThrottle, local: LoginThrottle) -> None:
        self._shared = shared
        self._local = local

    async def delay_s(self, account: str, address: str) -> int:
        """Return how many seconds the caller has to wait; 0 when it may try now."""
        try:
            return await self._shared.delay_s(account, address)
        except EnforcementUnavailable:
            return await self._local.delay_s(account, address)

    async def failed(self, account: str, address: str) -> None:
        """Note a failed attempt."""
        await self._local.failed(account, address)
        with suppress(EnforcementUnavailable):
            await self._shared.failed(account, address)

    async def succeeded(self, account: str, address: str) -> None:
        """Forget the failures."""
        await self._local.succeeded(account, address)
        with suppress(EnforcementUnavailable):
            await self._shared.succeeded(account, address)
