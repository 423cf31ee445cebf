"""Usage events and what of them is billable. The decision is taken when the request is served, and stored."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.plans import Plan
from backend.domain.records import record

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BillingReason(StrEnum):
    """Why an event's billable units are what they are."""

    LIVE = "live"
    TEST_KEY = "test-key"
    CACHE_HIT = "cache-hit"
    REPLAY = "replay"


class _Spelt:
    """Holds what was worked out of a value: no field of it, so nothing that compares or copies it sees this."""

    __slots__ = ("_fingerprint", "spelling")
    _fingerprint: bytes
    spelling: tuple[bytes, ...]
    """How the ledger's store spells the event, where it has done so before it writes it."""


@record(frozen=True, slots=True, kw_only=True)
class UsageEvent(_Spelt):
    """One answered prediction request. ``units`` are rows; ``cached_units`` of them came from the cache."""

    id: str
    tenant_id: TenantId
    credential_id: str
    environment: Environment
    model: str
    model_version: str
    units: int
    cached_units: int
    billable_units: int
    reason: BillingReason
    plan_id: str
    plan_version: int
    request_id: str
    occurred_at: datetime
    period: str

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of the event's content: the same id with another one is a conflict.

        Each event of the ledger is spelt so, and must be for ever: what can hold no quote first, then each text as an
        ASCII literal of Python, which says itself where it ends. So no two contents are spelt alike.
        """
        known: bytes | None = getattr(self, "_fingerprint", None)
        if known is None:
            known = self._printed()
            object.__setattr__(self, "_fingerprint", known)
        return known

    def _printed(self) -> bytes:
        at = self.occurred_at - _EPOCH  # to the microsecond, whatever the time zone; a third of isoformat()
        counted = (
            f"{self.environment} {self.reason} {self.units} {self.cached_units} {self.billable_units} "
            f"{self.plan_version} {at.days} {at.seconds} {at.microseconds} "
        )
        told = (
            f"{self.id!a}{self.tenant_id!a}{self.credential_id!a}{self.model!a}{self.model_version!a}{self.plan_id!a}"
            f"{self.request_id!a}{self.period!a}"
        )
        return sha256((counted + told).encode()).digest()


def decide_billing(*, environment: Environment, units: int, cached_units: int, plan: Plan) -> tuple[int, BillingReason]:
    """Return the billable units of an answered request, and why."""
    if environment is Environment.TEST:
        return 0, BillingReason.TEST_KEY
    if plan.bills_cache_hits:
        return units, BillingReason.LIVE
    computed = units - cached_units
    return computed, BillingReason.LIVE if computed else BillingReason.CACHE_HIT


@dataclass(frozen=True, slots=True, order=True)
class LedgerPosition:
    """A place in commit order: the writing transaction, then the row.

    A row number alone would lose rows: a transaction that took a low number may commit after a reader has gone past
    it. Where the store commits one writer at a time (SQLite) ``transaction`` is 0.
    """

    transaction: int
    row: int

    @classmethod
    def parse(cls, text: str) -> "LedgerPosition":
        """Read the written form.

        Raises:
            ValueError: it is not one.
        """
        transaction, row = text.split(".")
        return cls(int(transaction), int(row))

    def __str__(self) -> str:
        return f"{self.transaction}.{self.row}"


LEDGER_START = LedgerPosition(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as the ledger holds it, with its place in commit order."""

    position: LedgerPosition
    event: UsageEvent
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to read; ``None`` is any."""

    period: str | None = None
    credential_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in commit order. ``watermark`` is the position below which nothing can still appear."""

    events: tuple[StoredEvent, ...]
    has_more: bool
    watermark: LedgerPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """What one credential used in a period."""

    environment: Environment
    credential_id: str
    units: int
    billable_units: int


class Bucket(StrEnum):
    """The width of one line of a summary, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


def bucket_end(start: datetime, bucket: Bucket) -> datetime:
    """Return the first instant after a bucket."""
    match bucket:
        case Bucket.HOUR:
            return start + timedelta(hours=1)
        case Bucket.DAY:
            return start + timedelta(days=1)
        case Bucket.MONTH:
            return (start.replace(day=1) + timedelta(days=32)).replace(day=1)


def bucket_start(instant: datetime, bucket: Bucket) -> datetime:
    """Return the first instant of the bucket that an instant in UTC falls into."""
    match bucket:
        case Bucket.HOUR:
            return instant.replace(minute=0, second=0, microsecond=0)
        case Bucket.DAY:
            return instant.replace(hour=0, minute=0, second=0, microsecond=0)
        case Bucket.MONTH:
            return instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


class GroupBy(StrEnum):
    """What a summary's lines are split by."""

    MODEL = "model"
    KEY = "key"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryQuery:
    """Usage from ``start`` (inclusive) to ``end`` (exclusive)."""

    start: datetime
    end: datetime
    bucket: Bucket
    group_by: tuple[GroupBy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryLine:
    """One bucket of one group.

    ``complete``: the bucket lies within the span that was asked for, and no event can be added to it any more.
    """

    start: datetime
    group: tuple[tuple[GroupBy, str], ...]
    events: int
    units: int
    cached_units: int
    billable_units: int
    complete: bool


COMPLETE_AFTER = timedelta(minutes=2)
"""An event is stored within the ledger's own time bounds of being served; after this a bucket no longer grows."""


def is_complete(start: datetime, query: SummaryQuery, now: datetime) -> bool:
    """Whether a bucket's line holds all that will ever be in the bucket: a span may cut its first and its last one."""
    end = bucket_end(start, query.bucket)
    return query.start <= start and end <= query.end and end + COMPLETE_AFTER <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitsQuery:
    """Which units to count; ``credential_id`` ``None`` is all of the tenant's."""

    environment: Environment
    period: str
    credential_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanUsage:
    """What was used under one plan version."""

    plan_id: str
    plan_version: int
    events: int
    units: int
    billable_units: int
