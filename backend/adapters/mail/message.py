"""A message as it is sent: plain text, no line folded inside a link."""

from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid

from backend.domain.clock import Clock
from backend.domain.mail import Mail, one_line

# Links are longer than the 78 characters that mail prefers; RFC 5322 allows 998.
_POLICY = SMTP.clone(max_line_length=500)


def to_message(mail: Mail, *, sender: str, clock: Clock) -> EmailMessage:
    """Return the message, complete with its headers. An address that cannot stand in one is a ``ValueError``."""
    message = EmailMessage(policy=_POLICY)
    message["From"] = Address("Forecourt", addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = one_line(mail.subject)
    message["Date"] = format_datetime(clock.now())
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message
