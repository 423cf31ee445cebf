"""Delivering mail, in one body over files and over a real SMTP server; and the outbox before them."""

import asyncio
import email
import logging
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import pytest

from backend.adapters.mail.file import FileMailer
from backend.adapters.mail.outbox import MOST_WAITING, BackgroundOutbox
from backend.adapters.mail.smtp import SmtpMailer
from backend.adapters.mail.smtp import SmtpServer as SmtpAddress
from backend.domain.errors import MailUnavailable
from backend.domain.mail import Mail, invitation_mail
from backend.services.ports import Mailer
from tests.fakes import FakeClock
from tests.smtp_server import SmtpServer, smtp_server

pytestmark = pytest.mark.anyio

SENDER = "forecourt@example.com"
TOKEN = "fm_" + "Ab0-_" * 8 + "xyz"
LETTER = invitation_mail(
    to="ada@example.com", tenant="Acme", role="developer", public_url="https://api.example.com", token=TOKEN
)


@dataclass(frozen=True, slots=True)
class Post:
    """A mailer, where its mail arrives, and how to break it."""

    mailer: Mailer
    arrived: Callable[[], list[EmailMessage]]
    break_it: Callable[[], None]


def _parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    async with smtp_server() as server:
        yield server


@pytest.fixture(params=["file", "smtp"])
def post(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock, smtp: SmtpServer) -> Post:
    if request.param == "smtp":
        return Post(
            SmtpMailer(smtp.url, sender=SENDER, clock=clock),
            lambda: [received.message for received in smtp.received],
            lambda: smtp.refusals.update({"MAIL": "451 not now"}),
        )
    folder = tmp_path / "mail"

    def spoil() -> None:
        folder.write_text("in the way")

    return Post(
        FileMailer(folder, sender=SENDER, clock=clock),
        lambda: [_parsed(path.read_bytes()) for path in sorted(folder.glob("*.eml"))],
        spoil,
    )


async def test_a_message_arrives_as_it_was_written(post: Post) -> None:
    await post.mailer.send(LETTER)
    [message] = post.arrived()
    assert message["To"] == "ada@example.com"
    assert message["From"] == "Forecourt <forecourt@example.com>"
    assert message["Subject"] == "Invitation to Acme on Forecourt"
    assert message["Date"] == "Wed, 15 Jul 2026 12:00:00 +0000"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@example.com>")
    assert message.get_content().replace("\r\n", "\n") == LETTER.text


async def test_links_and_tokens_are_not_broken_over_lines(post: Post) -> None:
    await post.mailer.send(LETTER)
    [message] = post.arrived()
    lines = message.as_bytes().decode().splitlines()
    assert f"https://api.example.com/accept-invitation#{TOKEN}" in lines
    assert TOKEN in lines


async def test_what_is_not_ascii_arrives_too(post: Post) -> None:
    await post.mailer.send(Mail(to="ada@example.com", subject="Café Über 你好", text="Schöne Grüße\n.\n..dots\n"))
    [message] = post.arrived()
    assert message["Subject"] == "Café Über 你好"
    assert message.get_content().replace("\r\n", "\n") == "Schöne Grüße\n.\n..dots\n"


async def test_a_subject_cannot_smuggle_a_header_in(post: Post) -> None:
    evil = Mail(to="ada@example.com", subject="Hello\r\nBcc: eve@example.com\r\n\r\nBuy", text="x\n")
    await post.mailer.send(evil)
    [message] = post.arrived()
    assert message["Bcc"] is None
    assert message["Subject"] == "Hello Bcc: eve@example.com Buy"


@pytest.mark.parametrize("to", ["ada@example.com\r\nBcc: eve@example.com", "a@b.c, eve@example.com", "no address"])
async def test_an_address_that_is_none_is_refused(post: Post, to: str) -> None:
    with pytest.raises(MailUnavailable):
        await post.mailer.send(Mail(to=to, subject="Hello", text="x\n"))
    assert post.arrived() == []


async def test_many_at_once_all_arrive(post: Post) -> None:
    letters = [Mail(to=f"user{n}@example.com", subject="Hello", text="x\n") for n in range(20)]
    await asyncio.gather(*[post.mailer.send(letter) for letter in letters])
    assert {message["To"] for message in post.arrived()} == {letter.to for letter in letters}


async def test_what_cannot_be_delivered_is_said_in_one_way(post: Post) -> None:
    post.break_it()
    with pytest.raises(MailUnavailable):
        await post.mailer.send(LETTER)


# ------------------------------------------------------------------------------------------------------------ files


async def test_the_log_says_where_a_message_lies_and_never_what_it_holds(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await FileMailer(tmp_path / "mail", sender=SENDER, clock=clock).send(LETTER)
    [record] = [record for record in caplog.records if record.name.startswith("backend.adapters.mail")]
    [path] = (tmp_path / "mail").iterdir()
    assert record.__dict__["resource"] == str(path)
    assert TOKEN not in str(record.__dict__)
    assert "ada@example.com" not in str(record.__dict__)


async def test_a_message_is_readable_by_its_owner_alone(tmp_path: Path, clock: FakeClock) -> None:
    await FileMailer(tmp_path / "mail", sender=SENDER, clock=clock).send(LETTER)
    [path] = (tmp_path / "mail").iterdir()
    assert path.suffix == ".eml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ------------------------------------------------------------------------------------------------------------- SMTP


async def test_the_envelope_names_sender_and_recipient(smtp: SmtpServer, clock: FakeClock) -> None:
    await SmtpMailer(smtp.url, sender=SENDER, clock=clock).send(LETTER)
    [received] = smtp.received
    assert (received.sender, received.recipients) == (SENDER, ("ada@example.com",))


async def test_no_password_goes_over_an_open_line(smtp: SmtpServer, clock: FakeClock) -> None:
    url = f"smtp://user:secret-word@127.0.0.1:{smtp.port}"
    with pytest.raises(MailUnavailable, match="no encryption"):
        await SmtpMailer(url, sender=SENDER, clock=clock).send(LETTER)
    assert not any("AUTH" in command for command in smtp.commands)
    assert smtp.received == []


async def test_a_server_that_is_not_there_is_said_in_time(clock: FakeClock) -> None:
    async with smtp_server() as gone:
        pass
    with pytest.raises(MailUnavailable):
        await SmtpMailer(gone.url, sender=SENDER, clock=clock, timeout_s=5).send(LETTER)


@pytest.mark.parametrize("verb", ["EHLO", "RCPT", "DATA"])
async def test_a_refusal_at_any_step_is_said(smtp: SmtpServer, clock: FakeClock, verb: str) -> None:
    smtp.refusals.update({verb: "550 no", "HELO": "550 no"} if verb == "EHLO" else {verb: "550 no"})
    with pytest.raises(MailUnavailable):
        await SmtpMailer(smtp.url, sender=SENDER, clock=clock).send(LETTER)


def test_a_url_is_read() -> None:
    assert SmtpAddress.parse("smtps://user%40example.com:p%3Aw@mail.example.com") == SmtpAddress(
        host="mail.example.com", port=465, encrypted=True, user="user@example.com", password="p:w"
    )
    assert SmtpAddress.parse("smtp://mail.example.com").port == 587


@pytest.mark.parametrize("url", ["", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://host/path"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="smtp://"):
        SmtpAddress.parse(url)


# ----------------------------------------------------------------------------------------------------------- outbox


class Held:
    """A mailer that waits until it is let go, and can be out of order."""

    def __init__(self) -> None:
        self.sent: list[Mail] = []
        self.gate = asyncio.Event()
        self.is_broken = False

    async def send(self, mail: Mail) -> None:
        await self.gate.wait()
        if self.is_broken:
            raise MailUnavailable
        self.sent.append(mail)


async def test_nobody_waits_for_the_mail() -> None:
    held = Held()
    outbox = BackgroundOutbox(held)
    outbox.post(LETTER)
    assert held.sent == []
    held.gate.set()
    await outbox.settled()
    assert held.sent == [LETTER]


async def test_a_failure_is_logged_without_address_or_token(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    held.is_broken = True
    held.gate.set()
    outbox = BackgroundOutbox(held)
    outbox.post(LETTER)
    await outbox.settled()
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert TOKEN not in str(record.__dict__)
    assert "ada@example.com" not in str(record.__dict__)
    held.is_broken = False
    outbox.post(LETTER)
    await outbox.settled()
    assert held.sent == [LETTER]


async def test_what_waits_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    held = Held()
    outbox = BackgroundOutbox(held)
    for _ in range(MOST_WAITING + 5):
        outbox.post(LETTER)
    held.gate.set()
    await outbox.settled()
    assert len(held.sent) == MOST_WAITING
    assert len(caplog.records) == 5
