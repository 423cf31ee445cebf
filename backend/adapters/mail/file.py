"""Mail as files: what the embedded shape does instead of sending. The log says where each message lies."""

import asyncio
import logging
import os
from pathlib import Path

from backend.adapters.mail.message import to_message
from backend.domain.clock import Clock
from backend.domain.errors import MailUnavailable
from backend.domain.ids import new_id
from backend.domain.mail import Mail

log = logging.getLogger(__name__)


class FileMailer:
    """Writes each message into a folder as an ``.eml`` file, which mail programs open. Names sort by time."""

    def __init__(self, folder: Path, *, sender: str, clock: Clock) -> None:
        self._folder = folder
        self._sender = sender
        self._clock = clock

    async def send(self, mail: Mail) -> None:
        """Write a message, readable by the owner alone: it holds a token.

        Raises:
            MailUnavailable: it cannot be written.
        """
        path = self._folder / f"{new_id('mail')}.eml"
        try:
            message = to_message(mail, sender=self._sender, clock=self._clock)
            await asyncio.to_thread(_write, path, message.as_bytes())
        except (OSError, ValueError) as error:
            raise MailUnavailable from error
        log.info("mail written instead of sent", extra={"resource": str(path)})


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one step: whoever watches the folder never reads half a message.
    draft = path.with_suffix(".part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
