"""Messages to people."""

from typing import Protocol

from backend.domain.mail import Mail


class Mailer(Protocol):
    """Delivers mail."""

    async def send(self, mail: Mail) -> None:
        """Hand a message over to whatever delivers it.

        Raises:
            MailUnavailable: it does not take the message now.
        """
        ...


class Outbox(Protocol):
    """Takes messages off the caller's hands, once what they tell of is committed."""

    def post(self, mail: Mail) -> None:
        """Have a message sent soon; a failure is logged, and the person can ask for another one."""
        ...

    async def settled(self) -> None:
        """Return when every message posted so far was sent, or was given up."""
        ...
