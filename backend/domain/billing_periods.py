"""Billing periods: calendar months in UTC that are closed once, for good (LEDGER.md R7, R9)."""

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import period_end_s, period_of, period_start
from backend.domain.statements import StatementLine

PERIOD = re.compile(r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])")
MARK_EVERY = 10_000
"""Records between two places that an export can be resumed at without writing what lies before."""


class PeriodState(StrEnum):
    """How far a tenant's period is."""

    OPEN = "open"
    CLOSING = "closing"
    """What belongs to it is settled: what comes later becomes an adjustment."""
    CLOSED = "closed"
    """Its totals and its exported bytes never change."""


class ExportFormat(StrEnum):
    """How a period is written out."""

    NDJSON = "ndjson"
    CSV = "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTotals:
    """What a period comes to. ``units`` and ``billable_units`` are of events and adjustments together.

    ``sha256`` is over the canonical records in order: the lines of the NDJSON export without its trailer. It is known
    once the period is closed.
    """

    events: int
    adjustments: int
    units: int
    billable_units: int
    amount_micros: int
    currency: str
    first_position: str | None
    last_position: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFile:
    """An export's bytes, known before they are written."""

    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMark:
    """Where the records after ``position`` begin in the file, and among which rows: events, then adjustments."""

    is_event: bool
    position: str
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPeriod:
    """What is kept of a period when it is closed."""

    tenant_id: TenantId
    period: str
    closed_at: datetime
    totals: ControlTotals
    lines: tuple[StatementLine, ...]
    files: dict[ExportFormat, ExportFile]
    marks: dict[ExportFormat, tuple[ExportMark, ...]]

    def content(self) -> dict[str, Any]:
        """Return the ``data`` of the webhook: the period as the API shows it."""
        return {
            "period": self.period,
            "tenant_id": self.tenant_id,
            "state": PeriodState.CLOSED.value,
            "closed_at": self.closed_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            **asdict(self.totals),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodView:
    """A tenant's period as it is now."""

    tenant_id: TenantId
    period: str
    state: PeriodState
    totals: ControlTotals
    closed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One environment's units: what the ledger holds, and what was settled; ``None`` when that is not known."""

    environment: Environment
    ledger_units: int
    settled_units: int | None

    @property
    def agrees(self) -> bool:
        """Whether there is no difference to explain."""
        return self.settled_units is None or self.settled_units == self.ledger_units


def is_period(text: str) -> bool:
    """Whether a text is a month, ``YYYY-MM``."""
    return PERIOD.fullmatch(text) is not None


def period_end(period: str) -> datetime:
    """Return the first instant after a period."""
    return datetime.fromtimestamp(period_end_s(period), UTC)


def periods_between(first: datetime, last: datetime) -> list[str]:
    """Return the months from one instant to another, newest first."""
    found = [period_of(last.timestamp())]
    start = period_start(period_of(first.timestamp()))
    while period_start(found[-1]) > start:
        found.append(period_of(period_start(found[-1]).timestamp() - 1))
    return found
