"""Proving once more who one is, for what a stolen access token must not be enough."""

from backend.domain.errors import ReauthenticationRequired, TooMany
from backend.domain.passwords import MAX_CHARS
from backend.domain.tenants import User
from backend.services.ports import LoginThrottle, PasswordHasher


class Reauthentication:
    """Asks for the password, as slowly as a login does."""

    def __init__(self, *, passwords: PasswordHasher, throttle: LoginThrottle) -> None:
        self._passwords = passwords
        self._throttle = throttle

    async def require(self, user: User, password: str | None, address: str) -> None:
        """Refuse whoever does not know the user's password. No transaction may be open: a hash takes its time.

        Raises:
            ReauthenticationRequired: it is missing or wrong, or the user is locked out.
            TooMany: too many wrong ones came before.
        """
        if not password:
            raise ReauthenticationRequired
        wait_s = await self._throttle.delay_s(user.email, address)
        if wait_s:
            raise TooMany("Too many failed attempts. Try again later.", retry_after_s=wait_s)
        presented = password if len(password) <= MAX_CHARS else ""
        if not await self._passwords.verify(presented, user.password_hash) or user.disabled:
            await self._throttle.failed(user.email, address)
            raise ReauthenticationRequired
        await self._throttle.succeeded(user.email, address)
