"""What is mailed: plain text, each with one link whose token stands behind ``#``, which no server ever sees.

Nothing a stranger typed goes into a message to somebody else's address, but the name of a tenant that invites.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message."""

    to: str
    subject: str
    text: str


def invitation_mail(*, to: str, tenant: str, role: str, public_url: str, token: str) -> Mail:
    """Return the message that offers a seat."""
    tenant = one_line(tenant)
    return Mail(
        to=to,
        subject=f"Invitation to {tenant} on Forecourt",
        text=(
            f"You are invited to join {tenant} as {role}.\n\n"
            f"{public_url}/accept-invitation#{token}\n\n"
            "The link works once, for seven days, and for this address only.\n"
            "By program: POST /v1/invitations/accept with this token:\n\n"
            f"{token}\n\n"
            "If you did not expect this, ignore it.\n"
        ),
    )


def confirmation_mail(*, to: str, public_url: str, token: str) -> Mail:
    """Return the message that proves a new address."""
    return Mail(
        to=to,
        subject="Confirm your Forecourt account",
        text=(
            "Somebody, hopefully you, signed up with this address.\n\n"
            f"{public_url}/confirm#{token}\n\n"
            "The link works once, for 24 hours.\n"
            "By program: POST /v1/auth/confirm with this token:\n\n"
            f"{token}\n\n"
            "If it was not you, ignore this: without the link nothing happens.\n"
        ),
    )


def known_address_mail(*, to: str) -> Mail:
    """Return the message to somebody who signs up again."""
    return Mail(
        to=to,
        subject="You already have a Forecourt account",
        text=(
            "Somebody, hopefully you, signed up with this address, which has an account already.\n\n"
            "Sign in with your password, or set a new one: POST /v1/auth/forgot with this address.\n\n"
            "If it was not you, ignore this: nothing has changed.\n"
        ),
    )


def reset_mail(*, to: str, public_url: str, token: str) -> Mail:
    """Return the message that lets somebody set a new password."""
    return Mail(
        to=to,
        subject="Set a new Forecourt password",
        text=(
            "Somebody, hopefully you, asked to set a new password for this address.\n\n"
            f"{public_url}/reset-password#{token}\n\n"
            "The link works once, for one hour.\n"
            "By program: POST /v1/auth/reset with this token:\n\n"
            f"{token}\n\n"
            "If it was not you, ignore this: the password stays as it is.\n"
        ),
    )


def one_line(text: str) -> str:
    """Return a text without line breaks and other control characters, which would end a mail header."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
