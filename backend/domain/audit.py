"""The audit log's words: who did what to what, chained so that a changed byte shows.

Each tenant has a chain of its own. A record's hash covers its whole content and the hash of the record before it, so
that nothing can be changed, taken out or put in between without breaking every later link.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from backend.domain.ids import TenantId


class Named(Protocol):
    """What an entry may be about."""

    @property
    def id(self) -> str:
        """Return the name under which it is found."""
        ...


T = TypeVar("T", bound=Named)

PLATFORM_CHAIN = TenantId("platform")
"""The chain of what concerns no tenant: platform users, signing keys, plans."""
GENESIS = bytes(32)


class Action(StrEnum):
    """What was done, as noun and verb."""

    TENANT_CREATED = "tenant.created"
    TENANT_UPDATED = "tenant.updated"
    TENANT_SUSPENDED = "tenant.suspended"
    TENANT_RESUMED = "tenant.resumed"
    PLAN_CREATED = "plan.created"
    SUBSCRIPTION_STARTED = "subscription.started"
    MEMBER_ADDED = "member.added"
    MEMBER_UPDATED = "member.updated"
    MEMBER_REMOVED = "member.removed"
    INVITATION_CREATED = "invitation.created"
    INVITATION_REVOKED = "invitation.revoked"
    INVITATION_ACCEPTED = "invitation.accepted"
    SERVICE_ACCOUNT_CREATED = "service-account.created"
    SERVICE_ACCOUNT_ROTATED = "service-account.rotated"
    SERVICE_ACCOUNT_DELETED = "service-account.deleted"
    API_KEY_CREATED = "api-key.created"
    API_KEY_UPDATED = "api-key.updated"
    API_KEY_ROTATED = "api-key.rotated"
    API_KEY_REVOKED = "api-key.revoked"
    USER_CREATED = "user.created"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    PASSWORD_CHANGED = "password.changed"  # noqa: S105  # an action, not a password
    PASSWORD_RESET = "password.reset"  # noqa: S105  # an action, not a password
    SESSION_STARTED = "session.started"
    SESSION_REVOKED = "session.revoked"
    ACCESS_TOKEN_REVOKED = "access-token.revoked"  # noqa: S105  # an action, not a token
    SIGNING_KEY_ROTATED = "signing-key.rotated"
    BILLER_CUSTOMER_SET = "biller-customer.set"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_UPDATED = "webhook.updated"
    WEBHOOK_ROTATED = "webhook.rotated"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_DISABLED = "webhook.disabled"
    WEBHOOK_TESTED = "webhook.tested"
    WEBHOOK_REDELIVERED = "webhook.redelivered"
    USAGE_ADJUSTED = "usage.adjusted"
    PERIOD_CLOSED = "period.closed"
    LIMITS_UPDATED = "limits.updated"
    MODEL_ADDED = "model.added"
    MODEL_REMOVED = "model.removed"
    MODEL_LOADED = "model.loaded"
    MODEL_UNLOADED = "model.unloaded"
    MODEL_ALIAS_SET = "model-alias.set"
    MODEL_ALIAS_REMOVED = "model-alias.removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts: the kind and id of the credential, and where the request came from."""

    kind: str
    id: str
    address: str | None = None
    request_id: str | None = None


OPERATOR = Actor(kind="operator", id="operator")
"""The operator at the command line."""
SYSTEM = Actor(kind="system", id="system")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What a mutation says of itself. ``before`` and ``after`` hold no secret and nothing derived from one."""

    actor: Actor
    action: Action
    target_id: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_change(
        cls, actor: Actor, action: Action, view: Callable[[T], Mapping[str, Any]], before: T | None, after: T | None
    ) -> "AuditEntry":
        """Return the entry of something that was made, changed or taken away; one of the two states is there."""
        target = after if after is not None else before
        if target is None:
            raise ValueError("a change needs something that it is about")
        return cls(
            actor=actor,
            action=action,
            target_id=target.id,
            before={} if before is None else view(before),
            after={} if after is None else view(after),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """An entry at its place in its tenant's chain; ``sequence`` counts from 1."""

    id: str
    tenant_id: TenantId
    sequence: int
    at: datetime
    entry: AuditEntry
    previous_hash: bytes
    hash: bytes


def chain_hash(
    *, tenant_id: TenantId, record_id: str, sequence: int, at: datetime, entry: AuditEntry, previous_hash: bytes
) -> bytes:
    """Return the SHA-256 of a record's whole content and of the hash before it."""
    content = json.dumps(
        [
            tenant_id,
            record_id,
            sequence,
            at.astimezone(UTC).isoformat(timespec="microseconds"),
            entry.actor.kind,
            entry.actor.id,
            entry.actor.address,
            entry.actor.request_id,
            entry.action.value,
            entry.target_id,
            dict(entry.before),
            dict(entry.after),
        ],
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return hashlib.sha256(previous_hash + content.encode()).digest()


def is_intact(record: AuditRecord, previous_hash: bytes, sequence: int) -> bool:
    """Whether a record is what was written, at the place where it was written."""
    return (
        record.sequence == sequence
        and record.previous_hash == previous_hash
        and record.hash
        == chain_hash(
            tenant_id=record.tenant_id,
            record_id=record.id,
            sequence=record.sequence,
            at=record.at,
            entry=record.entry,
            previous_hash=previous_hash,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which records to read; ``None`` is any."""

    action: Action | None = None
    actor_id: str | None = None
    target_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """The outcome of walking a chain: how many records hold, and the first that does not."""

    records: int
    head: bytes
    broken_at: int | None
