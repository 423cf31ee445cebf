"""Webhooks: addresses that a tenant wants told what happens to it, and what they are told.

What is sent follows the Standard Webhooks specification (standardwebhooks.com): the headers ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature`` around a JSON body with ``type``, ``timestamp`` and ``data``.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from backend.domain.ids import TenantId, new_id
from backend.domain.outbound import origin_of

ENDPOINT_PREFIX = "whk"
MAX_ENDPOINTS = 20
"""Most endpoints of one tenant: each event is written once for each."""
SECRET_PREFIX = "whsec_"  # noqa: S105  # the beginning of every secret, not one
DEFAULT_OVERLAP = timedelta(days=1)
FAILING_FOR = timedelta(days=3)
"""An endpoint that has answered nothing well for so long is not called any more."""


class WebhookEvent(StrEnum):
    """What a tenant can be told of."""

    USAGE_THRESHOLD_REACHED = "usage.threshold_reached"
    API_KEY_REVOKED = "api_key.revoked"
    PERIOD_CLOSED = "period.closed"
    TEST = "webhook.test"
    """Sent when somebody asks for it, to the endpoint that they name."""


SUBSCRIBABLE = frozenset(WebhookEvent) - {WebhookEvent.TEST}


class DisabledBecause(StrEnum):
    """Why an endpoint is not called."""

    ASKED = "asked"
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """It answered nothing well for days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousSecret:
    """The secret before the last rotation, sealed; it signs as well until ``valid_until``."""

    sealed: bytes
    valid_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """An address and what it wants to know; ``events`` ``None`` is everything. Secrets are sealed under the id.

    ``failing_since`` is the first failure after the last success.
    """

    id: str
    tenant_id: TenantId
    url: str
    description: str
    events: tuple[WebhookEvent, ...] | None
    sealed_secret: bytes
    previous: PreviousSecret | None
    created_by: str
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_because: DisabledBecause | None = None
    failing_since: datetime | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether it is called."""
        return self.disabled_at is None

    def wants(self, event: WebhookEvent) -> bool:
        """Whether it is to be told of an event."""
        return self.is_enabled and (self.events is None or event in self.events)

    def overlap_at(self, now: datetime) -> PreviousSecret | None:
        """Return the secret before the last rotation while it still signs."""
        return self.previous if self.previous is not None and now < self.previous.valid_until else None

    def disabled(self, because: DisabledBecause, at: datetime) -> "WebhookEndpoint":
        """Return the endpoint as it is when it is not called any more."""
        return replace(self, disabled_at=at, disabled_because=because)

    def enabled(self) -> "WebhookEndpoint":
        """Return the endpoint as it is when it is called again, with nothing held against it."""
        return replace(self, disabled_at=None, disabled_because=None, failing_since=None)

    def after_success(self) -> "WebhookEndpoint":
        """Return the endpoint after it took a message."""
        return replace(self, failing_since=None)

    def after_failure(self, at: datetime) -> "WebhookEndpoint":
        """Return the endpoint after it did not; disabled when that has gone on for too long."""
        failing = replace(self, failing_since=self.failing_since or at)
        if at - (failing.failing_since or at) >= FAILING_FOR:
            return failing.disabled(DisabledBecause.FAILING, at)
        return failing


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookMessage:
    """Something that happened, as every endpoint is told of it: the same id and the same bytes, however often."""

    id: str
    event: WebhookEvent
    body: str

    @classmethod
    def telling(cls, event: WebhookEvent, data: Mapping[str, Any], at: datetime) -> "WebhookMessage":
        """Return the message of an event that happens now."""
        message_id = new_id("msg", at_s=at.timestamp())
        timestamp = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = {"id": message_id, "type": event.value, "timestamp": timestamp, "data": dict(data)}
        return cls(id=message_id, event=event, body=json.dumps(content, separators=(",", ":"), ensure_ascii=False))


def mint_secret() -> str:
    """Return a fresh secret of 256 bits."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature_headers(message_id: str, body: bytes, signed_with: tuple[str, ...], at: datetime) -> dict[str, str]:
    """Return the three headers of a message, with one signature for each secret that counts now."""
    timestamp = str(int(at.timestamp()))
    content = b".".join((message_id.encode(), timestamp.encode(), body))
    signatures = [
        base64.b64encode(
            hmac.new(base64.b64decode(secret.removeprefix(SECRET_PREFIX)), content, hashlib.sha256).digest()
        ).decode()
        for secret in signed_with
    ]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def audit_view(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """Return what the audit log keeps of an endpoint. A path may be a secret of the other side's, so it is left out."""
    return {
        "origin": origin_of(endpoint.url),
        "url_digest": hashlib.sha256(f"{endpoint.id}:{endpoint.url}".encode()).hexdigest()[:16],
        "description": endpoint.description,
        "events": None if endpoint.events is None else [event.value for event in endpoint.events],
        "disabled_because": endpoint.disabled_because.value if endpoint.disabled_because else None,
        "rotation_overlap_until": endpoint.previous.valid_until.isoformat() if endpoint.previous else None,
    }
