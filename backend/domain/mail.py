"""What is mailed: plain text, each with one link whose token stands behind ``#``, which no server ever sees.

Nothing a stranger typed goes into a message to somebody else's address, but the name of a tenant that invites.
"""

from dataclasses import dataclass

from backend.domain.api_keys import Environment
from backend.domain.plans import QuotaMode
from backend.domain.usage_alerts import UsageAlert
from backend.domain.webhooks import FAILING_FOR, DisabledBecause


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


def endpoint_disabled_mail(*, to: str, tenant: str, origin: str, because: DisabledBecause) -> Mail:
    """Return the message that an endpoint is not called any more. Only its origin: the rest may be a secret."""
    cause = (
        "It answered 410 Gone."
        if because is DisabledBecause.GONE
        else f"It has taken no message for {FAILING_FOR.days} days."
    )
    return Mail(
        to=to,
        subject=f"A webhook of {one_line(tenant)} was disabled",
        text=(
            f"The webhook endpoint at {one_line(origin)} is not called any more.\n{cause}\n\n"
            "Nothing was lost that you cannot have again: enable the endpoint with PATCH /v1/webhooks/{id},\n"
            "and have what is missing sent once more with POST /v1/webhooks/{id}/deliveries/{delivery_id}/redeliver.\n"
        ),
    )


def usage_threshold_mail(*, to: str, tenant: str, alert: UsageAlert) -> Mail:
    """Return the message that a threshold of a quota is reached."""
    use = alert.use
    whose = "the quota" if use.scope == "tenant" else f"the quota of the key {use.subject}"
    environment = "" if use.environment is Environment.LIVE else " (test environment)"
    beyond = {
        QuotaMode.HARD: "At 100 % further rows are refused until the month is over.",
        QuotaMode.SOFT: "Beyond 100 % rows are served on, and are overage.",
    }[use.mode]
    return Mail(
        to=to,
        subject=f"{one_line(tenant)} has used {alert.threshold} % of its quota for {use.period}",
        text=(
            f"{use.units} of {use.limit} rows of {whose} for {use.period} are used{environment}.\n{beyond}\n\n"
            "Where you stand at any time: GET /v1/limits\n"
        ),
    )


def one_line(text: str) -> str:
    """Return a text without line breaks and other control characters, which would end a mail header."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
