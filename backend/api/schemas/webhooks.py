"""Webhooks on the wire."""

import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from backend.api.schemas.common import In, Instant, Out
from backend.domain.outbound import URL_MAX_CHARS
from backend.domain.webhook_deliveries import Attempt, Delivery, DeliveryStatus
from backend.domain.webhooks import SUBSCRIBABLE, WebhookEndpoint, WebhookEvent
from backend.services.webhooks import WebhookChange


def _without_repetition(events: list[WebhookEvent]) -> list[WebhookEvent]:
    if not set(events) <= SUBSCRIBABLE:
        raise ValueError("holds an event that is sent only on request")
    return list(dict.fromkeys(events))


Url = Annotated[str, Field(min_length=1, max_length=URL_MAX_CHARS, examples=["https://hooks.example.com/forecourt"])]
Description = Annotated[str, Field(max_length=200)]
Events = Annotated[
    list[Annotated[WebhookEvent, Field(strict=False)]],
    Field(min_length=1, max_length=20, examples=[["usage.threshold_reached"]]),
    AfterValidator(_without_repetition),
]


class WebhookIn(In):
    """What a new endpoint should be told, and where."""

    url: Url
    events: Events | None = Field(None, description="What it is told of; everything by default.")
    description: Description = ""


class WebhookChangeIn(In):
    """What should change of an endpoint; what is not sent stays."""

    url: Url | None = None
    events: Events | None = Field(None, description="`null` is everything.")
    description: Description | None = None
    enabled: bool | None = Field(None, description="`true` calls a disabled endpoint again, as if it had never failed.")

    def to_change(self) -> WebhookChange:
        """Return the fields that were sent."""
        change = WebhookChange()
        if self.url is not None:
            change["url"] = self.url
        if self.description is not None:
            change["description"] = self.description
        if self.enabled is not None:
            change["enabled"] = self.enabled
        if "events" in self.model_fields_set:
            change["events"] = None if self.events is None else tuple(self.events)
        return change


class RotateSecretIn(In):
    """How long the old secret signs as well."""

    overlap_seconds: int = Field(86_400, ge=0, le=604_800)


class EndpointState(StrEnum):
    """Whether an endpoint is called."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class WebhookOut(Out):
    """An endpoint, without its secret."""

    id: str
    url: str = Field(description="Only its origin, to callers without the scope `tenant:write`.")
    events: list[str] | None = Field(description="`null` is everything.")
    description: str
    status: EndpointState
    disabled_because: str | None = Field(description="`asked`, `gone` (it answered 410) or `failing` (for days).")
    disabled_at: Instant | None
    failing_since: Instant | None = Field(description="The first failure after the last success.")
    previous_secret_until: Instant | None = Field(description="Until then messages carry a signature of each secret.")
    created_by: str
    created_at: Instant

    @classmethod
    def of(cls, endpoint: WebhookEndpoint) -> "WebhookOut":
        """Return an endpoint's public side."""
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            events=None if endpoint.events is None else [event.value for event in endpoint.events],
            description=endpoint.description,
            status=EndpointState.ENABLED if endpoint.is_enabled else EndpointState.DISABLED,
            disabled_because=endpoint.disabled_because.value if endpoint.disabled_because else None,
            disabled_at=endpoint.disabled_at,
            failing_since=endpoint.failing_since,
            previous_secret_until=endpoint.previous.valid_until if endpoint.previous else None,
            created_by=endpoint.created_by,
            created_at=endpoint.created_at,
        )


class NewWebhookOut(WebhookOut):
    """An endpoint with a secret just made: the only answer that holds it."""

    secret: str = Field(description="Shown this once. Its base64 part is the key of the HMAC-SHA256 signatures.")

    @classmethod
    def with_secret(cls, endpoint: WebhookEndpoint, secret: str) -> "NewWebhookOut":
        """Return an endpoint's public side and its secret."""
        return cls(**WebhookOut.of(endpoint).model_dump(), secret=secret)


class AttemptOut(Out):
    """One try."""

    at: Instant
    status_code: int | None
    failure: str | None = Field(
        description="Why no answer came: `unresolved`, `not-allowed`, `unreachable`, `timeout`, `tls` or `protocol`."
    )
    duration_ms: int
    excerpt: str | None = Field(description="How an answer that was no success begins, without what looks secret.")

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptOut":
        """Return an attempt as it is shown."""
        return cls(
            at=attempt.at,
            status_code=attempt.status,
            failure=attempt.failure,
            duration_ms=attempt.duration_ms,
            excerpt=attempt.excerpt,
        )


class DeliveryOut(Out):
    """A message on its way to an endpoint, or one that was."""

    id: str
    message_id: str = Field(description="The `webhook-id` header: the same in every attempt.")
    event: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: Instant | None
    created_at: Instant
    payload: dict[str, Any]
    log: list[AttemptOut] = Field(description="The last attempts, oldest first.")

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryOut":
        """Return a delivery as it is shown."""
        return cls(
            id=delivery.id,
            message_id=delivery.message_id,
            event=delivery.event.value,
            status=delivery.status,
            attempts=delivery.attempts,
            next_attempt_at=delivery.next_attempt_at,
            created_at=delivery.created_at,
            payload=json.loads(delivery.body),
            log=[AttemptOut.of(attempt) for attempt in delivery.log],
        )
