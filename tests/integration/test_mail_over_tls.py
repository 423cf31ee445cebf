"""Mail over TLS, to a real server: from the first byte on, and with STARTTLS; and certificates that prove nothing."""

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from backend.adapters.mail.outbox import BackgroundOutbox
from backend.adapters.mail.smtp import SmtpMailer
from backend.domain.errors import MailUnavailable
from backend.domain.mail import invitation_mail
from tests.api.conftest import World, embedded_settings, running
from tests.certificates import Authority
from tests.fakes import FakeClock
from tests.smtp_server import SmtpServer, smtp_server

pytestmark = pytest.mark.anyio

SENDER = "forecourt@example.com"
TOKEN = "fm_" + "Ab0-_" * 8 + "xyz"
LETTER = invitation_mail(
    to="ada@example.com", tenant="Acme", role="developer", public_url="https://api.example.com", token=TOKEN
)
WAYS = ("smtps", "starttls")
each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The one authority that this machine trusts."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return made


def serving(
    way: str, signer: Authority, name: str = "127.0.0.1", *, is_expired: bool = False
) -> AbstractAsyncContextManager[SmtpServer]:
    shown = signer.server(name, is_expired=is_expired)
    return smtp_server(tls=shown) if way == "smtps" else smtp_server(starttls=shown)


@each_way
async def test_a_message_and_the_password_go_over_tls(trusted: Authority, clock: FakeClock, way: str) -> None:
    async with serving(way, trusted) as server:
        await SmtpMailer(server.url_of("user:secret-word"), sender=SENDER, clock=clock).send(LETTER)
    [received] = server.received
    assert received.message["To"] == "ada@example.com"
    verbs = [command.split()[0].upper() for command in server.commands]
    assert "AUTH" in verbs
    if way == "starttls":
        assert verbs.index("STARTTLS") < verbs.index("AUTH") < verbs.index("MAIL")


@each_way
@pytest.mark.parametrize("wrong", ["unknown authority", "another name", "expired"])
async def test_a_certificate_that_proves_nothing_gets_neither_password_nor_message(
    trusted: Authority, tmp_path: Path, clock: FakeClock, way: str, wrong: str
) -> None:
    signer = Authority(tmp_path) if wrong == "unknown authority" else trusted
    name = "mail.example.com" if wrong == "another name" else "127.0.0.1"
    async with serving(way, signer, name, is_expired=wrong == "expired") as server:
        with pytest.raises(MailUnavailable, match="certificate"):
            await SmtpMailer(server.url_of("user:secret-word"), sender=SENDER, clock=clock).send(LETTER)
    assert server.received == []
    assert not [command for command in server.commands if command.split()[0].upper() in {"AUTH", "MAIL"}]


@each_way
async def test_the_log_says_what_is_wrong_with_the_certificate_and_nothing_secret(
    trusted: Authority, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async with serving(way, Authority(tmp_path)) as server:
        outbox = BackgroundOutbox(SmtpMailer(server.url_of("user:secret-word"), sender=SENDER, clock=clock))
        outbox.post(LETTER)
        await outbox.settled()
    [record] = [each for each in caplog.records if each.name.startswith("backend.adapters.mail")]
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "mail not sent")
    said = str(record.__dict__)
    assert "certificate is not accepted" in record.__dict__["cause"]
    for secret in ("secret-word", TOKEN, "ada@example.com"):
        assert secret not in said


async def test_a_server_that_speaks_no_tls_is_not_spoken_to_in_the_open(clock: FakeClock) -> None:
    async with smtp_server() as server:
        url = server.url_of("user:secret-word").replace("smtp:", "smtps:")
        with pytest.raises(MailUnavailable):
            await SmtpMailer(url, sender=SENDER, clock=clock, timeout_s=5).send(LETTER)
    assert server.received == []


@pytest.fixture
async def misdirected(tmp_path: Path, trusted: Authority) -> AsyncIterator[tuple[World, SmtpServer]]:
    """An application whose mail server shows a certificate that proves nothing."""
    async with serving("smtps", Authority(tmp_path)) as server:
        settings = embedded_settings(tmp_path, smtp_url=server.url)
        async with running(settings, "misdirected") as world:
            yield world, server


async def test_an_invitation_that_could_not_be_mailed_is_there_and_can_be_sent_again(
    misdirected: tuple[World, SmtpServer], trusted: Authority
) -> None:
    world, server = misdirected
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    body = {"email": "guest@elsewhere.example", "role": "viewer"}
    made = await world.client.post("/v1/invitations", json=body, headers=owner)
    assert made.status_code == 201
    await world.resources.outbox.settled()
    assert server.received == []
    [listed] = (await world.client.get("/v1/invitations", headers=owner)).json()["data"]
    assert (listed["id"], listed["status"]) == (made.json()["id"], "pending")
    again = await world.client.post("/v1/invitations", json=body, headers=owner)
    assert again.status_code == 201
