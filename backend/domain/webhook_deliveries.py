"""Getting a message to a webhook endpoint: at least once, over about three days, and with a record of each attempt."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus

from backend.domain.ids import TenantId, new_id
from backend.domain.webhooks import WebhookEndpoint, WebhookEvent, WebhookMessage

ID_PREFIX = "whd"
DELAYS_S = (5, 30, 120, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400)
"""How long to wait after each failure: seconds at first, in case it was nothing, and three days in all."""
JITTER = 0.2
"""The greatest part of a delay that is added to it, so that what failed together is not tried together."""
LONGEST_WAIT_S = 86_400
LOG_LENGTH = 20
EXCERPT_CHARS = 200
LEASE = timedelta(seconds=60)
"""How long an attempt belongs to whoever claimed it; longer than any attempt takes."""
KEPT_FOR = timedelta(days=30)

_SECRETS = re.compile(
    r"(whsec_|fc_live_|fc_test_|fs_|fm_|sk_live_|sk_test_|eyJ)[\w+/=.-]+|v1,[\w+/=]+|(?i:bearer|basic)\s+[\w+/=.~-]+"
)


class DeliveryStatus(StrEnum):
    """How far a delivery has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try: the status that came back, or why none did. ``excerpt`` is of an answer that was no success."""

    at: datetime
    status: int | None
    failure: str | None
    duration_ms: int
    excerpt: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether the endpoint took the message."""
        return self.status is not None and HTTPStatus(200) <= self.status < HTTPStatus(300)

    @property
    def says_gone(self) -> bool:
        """Whether the endpoint wants no message ever again."""
        return self.status == HTTPStatus.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message on its way to one endpoint. ``attempts`` counts all tries, this round's from ``round_from`` on.

    ``next_attempt_at`` is when it is due. Whoever claims it moves that ahead and counts the attempt beforehand, so that
    a process that dies costs one attempt and loses none.
    """

    id: str
    tenant_id: TenantId
    endpoint_id: str
    message_id: str
    event: WebhookEvent
    body: str
    status: DeliveryStatus
    attempts: int
    round_from: int
    created_at: datetime
    next_attempt_at: datetime | None
    log: tuple[Attempt, ...] = ()

    @classmethod
    def of(cls, message: WebhookMessage, endpoint: WebhookEndpoint, at: datetime) -> "Delivery":
        """Return a message's delivery to an endpoint, due at once."""
        return cls(
            id=new_id(ID_PREFIX, at_s=at.timestamp()),
            tenant_id=endpoint.tenant_id,
            endpoint_id=endpoint.id,
            message_id=message.id,
            event=message.event,
            body=message.body,
            status=DeliveryStatus.PENDING,
            attempts=0,
            round_from=0,
            created_at=at,
            next_attempt_at=at,
        )

    def after(self, attempt: Attempt, *, retry_after_s: int | None, jitter: float) -> "Delivery":
        """Return the delivery after an attempt; ``jitter`` is a random number from 0 to 1."""
        tried = replace(self, log=(*self.log, attempt)[-LOG_LENGTH:])
        if attempt.is_success:
            return replace(tried, status=DeliveryStatus.DELIVERED, next_attempt_at=None)
        made = self.attempts - self.round_from
        if attempt.says_gone or self.event is WebhookEvent.TEST or made > len(DELAYS_S):
            return tried.given_up()
        wait_s = wait_after(made, jitter=jitter, retry_after_s=retry_after_s)
        return replace(tried, next_attempt_at=attempt.at + timedelta(seconds=wait_s))

    def given_up(self) -> "Delivery":
        """Return the delivery as it is when nobody tries any more."""
        return replace(self, status=DeliveryStatus.FAILED, next_attempt_at=None)

    def again(self, at: datetime) -> "Delivery":
        """Return the delivery as it is when somebody wants it sent once more: the same message, a round of its own."""
        return replace(self, status=DeliveryStatus.PENDING, round_from=self.attempts, next_attempt_at=at)


def wait_after(attempts: int, *, jitter: float, retry_after_s: int | None = None) -> float:
    """Return the seconds to wait after so many failed attempts; the endpoint may ask for longer, up to a day."""
    planned_s = DELAYS_S[min(attempts, len(DELAYS_S)) - 1] * (1 + JITTER * jitter)
    return max(planned_s, min(retry_after_s or 0, LONGEST_WAIT_S))


def retry_after_of(header: str | None, now: datetime) -> int | None:
    """Return the seconds that a ``Retry-After`` header asks for; ``None`` when it asks for nothing sensible."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return min(int(header.strip()[:9]), LONGEST_WAIT_S)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    wait_s = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return round(min(wait_s, LONGEST_WAIT_S)) if wait_s > 0 else None


def excerpt_of(body: bytes) -> str | None:
    """Return the beginning of an answer in one printable line, with whatever looks like a secret taken out."""
    text = body[: EXCERPT_CHARS * 8].decode("utf-8", "replace")
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _SECRETS.sub("[secret]", line)[:EXCERPT_CHARS] or None
