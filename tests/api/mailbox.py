"""What an application has mailed, as the people it went to would read it."""

import email
import re
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default

from tests.api.conftest import World

_TOKEN = re.compile(r"^fm_[\w-]{43}$", re.MULTILINE)
_LINK = re.compile(r"^(\S+)#(fm_[\w-]{43})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message."""

    subject: str
    text: str

    @property
    def token(self) -> str:
        [token] = _TOKEN.findall(self.text)
        return str(token)

    @property
    def link(self) -> str:
        [(link, token)] = _LINK.findall(self.text)
        assert token == self.token
        return str(link)


async def letters_to(world: World, address: str) -> list[Letter]:
    """Return what was mailed to an address, oldest first."""
    await world.resources.outbox.settled()
    found = []
    for path in sorted(world.app.state.mail_folder.glob("*.eml")):
        message = email.message_from_bytes(path.read_bytes(), policy=default)
        assert isinstance(message, EmailMessage)
        if str(message["To"]) == address:
            found.append(Letter(str(message["Subject"]), message.get_content().replace("\r\n", "\n")))
    return found
