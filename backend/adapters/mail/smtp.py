"""Mail over SMTP, in a thread: ``smtps://`` from the first byte on, ``smtp://`` with STARTTLS where it is offered."""

import asyncio
import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

from backend.adapters.mail.message import to_message
from backend.domain.clock import Clock
from backend.domain.errors import MailUnavailable
from backend.domain.mail import Mail

_PORTS = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpServer:
    """Where mail is handed in."""

    host: str
    port: int
    encrypted: bool
    user: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> "SmtpServer":
        """Read ``smtp[s]://[user:password@]host[:port]``; anything else is a ``ValueError``."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path not in {"", "/"}:
            raise ValueError("write the mail server as smtp://user:password@host:port or smtps://…")
        return cls(
            host=parts.hostname,
            port=parts.port or _PORTS[parts.scheme],
            encrypted=parts.scheme == "smtps",
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )


class SmtpMailer:
    """Hands each message to a mail server, on a connection of its own."""

    def __init__(self, url: str, *, sender: str, clock: Clock, timeout_s: float = 10.0) -> None:
        self._server = SmtpServer.parse(url)
        self._sender = sender
        self._clock = clock
        self._timeout_s = timeout_s

    async def send(self, mail: Mail) -> None:
        """Hand a message in.

        Raises:
            MailUnavailable: the server does not answer, or does not take it.
        """
        try:
            message = to_message(mail, sender=self._sender, clock=self._clock)
            await asyncio.to_thread(self._hand_in, message)
        except ssl.SSLCertVerificationError as error:
            raise MailUnavailable(f"The mail server's certificate is not accepted: {error.verify_message}.") from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise MailUnavailable from error

    def _hand_in(self, message: EmailMessage) -> None:
        server, tls = self._server, ssl.create_default_context()
        if server.encrypted:
            connection: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=self._timeout_s, context=tls)
        else:
            connection = smtplib.SMTP(server.host, server.port, timeout=self._timeout_s)
        with connection:
            connection.ehlo_or_helo_if_needed()
            if not server.encrypted and connection.has_extn("starttls"):
                connection.starttls(context=tls)
                connection.ehlo()
            elif not server.encrypted and server.password is not None:
                raise MailUnavailable("The mail server offers no encryption, so it gets no password.")
            if server.user is not None:
                connection.login(server.user, server.password or "")
            connection.send_message(message)
