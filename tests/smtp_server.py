"""A mail server for tests: it speaks as much SMTP (RFC 5321) as a client needs to hand a message in, and keeps it."""

import asyncio
import email
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default

_ANSWERS = {"AUTH": "235 welcome", "RSET": "250 ok", "NOOP": "250 ok"}


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came in: the envelope and the content."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        message = email.message_from_bytes(self.content, policy=default)
        assert isinstance(message, EmailMessage)
        return message


@dataclass
class SmtpServer:
    """What came in, and what is refused: the answer to a verb, instead of the usual one."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    starttls: ssl.SSLContext | None = None
    scheme: str = "smtp"

    @property
    def url(self) -> str:
        return self.url_of()

    def url_of(self, user: str = "", host: str = "127.0.0.1") -> str:
        """Return where to hand mail in, with ``user:password@`` before the host if they are given."""
        return f"{self.scheme}://{user + '@' if user else ''}{host}:{self.port}"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; a client may hang up as soon as it has seen the certificate."""
        with suppress(ssl.SSLError, ConnectionError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:

        async def say(line: str) -> None:
            writer.write(line.encode() + b"\r\n")
            await writer.drain()

        sender = ""
        recipients: list[str] = []
        await say("220 tests ESMTP")
        while line := (await reader.readline()).decode(errors="replace").strip():
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            self.commands.append(line)
            if verb in self.refusals:
                await say(self.refusals[verb])
            elif verb == "EHLO":
                await say(self._greeting(writer))
            elif verb == "STARTTLS" and self.starttls:
                await say("220 go on")
                await writer.start_tls(self.starttls)
            elif verb == "MAIL":
                sender = rest.partition("<")[2].partition(">")[0]
                recipients.clear()
                await say("250 ok")
            elif verb == "RCPT":
                recipients.append(rest.partition("<")[2].partition(">")[0])
                await say("250 ok")
            elif verb == "DATA":
                await say("354 go on")
                content = await reader.readuntil(b"\r\n.\r\n")
                self.received.append(Received(sender, tuple(recipients), content[:-3].replace(b"\r\n..", b"\r\n.")))
                await say("250 kept")
            elif verb == "QUIT":
                await say("221 bye")
                break
            else:
                await say(_ANSWERS.get(verb, "502 unknown"))
        writer.close()

    def _greeting(self, writer: asyncio.StreamWriter) -> str:
        is_open = writer.get_extra_info("ssl_object") is None
        offers = ["STARTTLS"] if is_open and self.starttls else [] if is_open else ["AUTH PLAIN"]
        return "\r\n".join(["250-tests", *(f"250-{each}" for each in offers), "250 8BITMIME"])


@asynccontextmanager
async def smtp_server(
    *, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None
) -> AsyncIterator[SmtpServer]:
    """Listen on a free port until the block ends; with ``tls`` from the first byte on, with ``starttls`` on demand."""
    state = SmtpServer(starttls=starttls, scheme="smtps" if tls else "smtp")
    server = await asyncio.start_server(state.talk, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    async with server:
        yield state
