"""Sends mail off everybody's clock, so that no answer's time tells whether a message went out."""

import asyncio
import logging

from backend.domain.errors import MailUnavailable
from backend.domain.mail import Mail
from backend.services.ports import Mailer

log = logging.getLogger(__name__)

MOST_WAITING = 1000
_AT_ONCE = 4


class BackgroundOutbox:
    """Bounded in what waits and in what is sent at once. What cannot be sent is logged and let go: a person who waits
    for it asks again.
    """

    def __init__(self, mailer: Mailer) -> None:
        self._mailer = mailer
        self._sending: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def post(self, mail: Mail) -> None:
        """Have a message sent soon."""
        if len(self._sending) >= MOST_WAITING:
            log.error("mail not sent: too much is waiting", extra={"count": len(self._sending)})
            return
        task = asyncio.get_running_loop().create_task(self._send(mail))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def settled(self) -> None:
        """Return when every message posted so far was sent, or was given up."""
        await asyncio.gather(*self._sending)

    async def _send(self, mail: Mail) -> None:
        async with self._gate:
            try:
                await self._mailer.send(mail)
            except MailUnavailable as error:
                cause = error.__cause__ or error
                said = f"{type(cause).__name__}: {error.detail}"
                log.error("mail not sent", extra={"reason": mail.subject, "cause": said})  # noqa: TRY400
