"""Adjustments: signed rows that correct what the books hold, without touching it (LEDGER.md R5, R8)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from backend.domain.ids import TenantId
from backend.domain.usage import LedgerPosition, UsageEvent

MOST_UNITS = 10**12


class AdjustmentKind(StrEnum):
    """Where an adjustment comes from."""

    CORRECTION = "correction"
    """Somebody decided it."""
    LATE_EVENT = "late-event"
    """An event that reached the ledger after its own period had begun to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """``units`` more (or, negative, fewer) than was booked in ``corrects_period``, booked in the open ``period``.

    ``event_id`` names the event that is corrected, or that came late; ``None`` corrects a period as a whole. Units and
    billable units of a correction are the same: only what is billed is corrected.
    """

    id: str
    tenant_id: TenantId
    kind: AdjustmentKind
    period: str
    corrects_period: str
    event_id: str | None
    units: int
    billable_units: int
    plan_id: str
    plan_version: int
    reason: str
    actor_kind: str
    actor_id: str
    created_at: datetime
    late_event: UsageEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdjustment:
    """An adjustment as the books hold it, with its place in commit order."""

    position: LedgerPosition
    adjustment: Adjustment


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedUsage:
    """What was adjusted under one plan version of one period: ``earlier`` before this period, ``units`` in it."""

    corrects_period: str
    plan_id: str
    plan_version: int
    earlier: int
    units: int
