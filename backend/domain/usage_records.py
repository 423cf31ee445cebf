"""Canonical records: how a period's events and adjustments are written out, to the byte.

An export has one record for each event in commit order, then one for each adjustment, then a trailer with the control
totals. What stands here is never changed for records that exist: closed periods are exported again from it, and must
come to the same bytes.
"""

import csv
import io
import json
from datetime import UTC, datetime

from backend.domain.adjustments import StoredAdjustment
from backend.domain.billing_periods import ControlTotals, ExportFormat
from backend.domain.usage import StoredEvent

Record = StoredEvent | StoredAdjustment
FIELDS = (
    "type",
    "id",
    "position",
    "tenant_id",
    "period",
    "occurred_at",
    "stored_at",
    "key_id",
    "environment",
    "model",
    "version",
    "units",
    "cached_units",
    "billable_units",
    "reason",
    "plan_id",
    "plan_version",
    "request_id",
    "corrects_event_id",
    "corrects_period",
    "actor",
)
TRAILER_FIELDS = (
    "events",
    "adjustments",
    "amount_micros",
    "currency",
    "first_position",
    "last_position",
    "sha256",
)
_NO_TRAILER = (None,) * len(TRAILER_FIELDS)
# A spreadsheet takes a cell that begins with one of these for a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_record(record: Record, form: ExportFormat) -> bytes:
    """Return a record as its line of an export."""
    values = _of_event(record) if isinstance(record, StoredEvent) else _of_adjustment(record)
    if form is ExportFormat.NDJSON:
        return _json(dict(zip(FIELDS, values, strict=True)))
    return _row((*values, *_NO_TRAILER))


def write_header(form: ExportFormat) -> bytes:
    """Return what an export begins with."""
    return b"" if form is ExportFormat.NDJSON else _row((*FIELDS, *TRAILER_FIELDS))


def write_trailer(tenant_id: str, period: str, totals: ControlTotals, form: ExportFormat) -> bytes:
    """Return an export's last line: the control totals."""
    known: dict[str, str | int | None] = {
        "type": "control_totals",
        "tenant_id": tenant_id,
        "period": period,
        "units": totals.units,
        "billable_units": totals.billable_units,
    }
    ends: dict[str, str | int | None] = {name: getattr(totals, name) for name in TRAILER_FIELDS}
    if form is ExportFormat.NDJSON:
        return _json(known | ends)
    return _row((*(known.get(name) for name in FIELDS), *ends.values()))


def _of_event(stored: StoredEvent) -> tuple[str | int | None, ...]:
    event = stored.event
    return (
        "event",
        event.id,
        str(stored.position),
        event.tenant_id,
        event.period,
        _instant(event.occurred_at),
        _instant(stored.stored_at),
        event.credential_id,
        event.environment.value,
        event.model,
        event.model_version,
        event.units,
        event.cached_units,
        event.billable_units,
        event.reason.value,
        event.plan_id,
        event.plan_version,
        event.request_id,
        None,
        None,
        None,
    )


def _of_adjustment(stored: StoredAdjustment) -> tuple[str | int | None, ...]:
    adjustment, late = stored.adjustment, stored.adjustment.late_event
    return (
        "adjustment",
        adjustment.id,
        str(stored.position),
        adjustment.tenant_id,
        adjustment.period,
        _instant(late.occurred_at if late else adjustment.created_at),
        _instant(adjustment.created_at),
        late.credential_id if late else None,
        late.environment.value if late else None,
        late.model if late else None,
        late.model_version if late else None,
        adjustment.units,
        late.cached_units if late else 0,
        adjustment.billable_units,
        adjustment.reason,
        adjustment.plan_id,
        adjustment.plan_version,
        late.request_id if late else None,
        adjustment.event_id,
        adjustment.corrects_period,
        f"{adjustment.actor_kind}:{adjustment.actor_id}",
    )


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _json(values: dict[str, str | int | None]) -> bytes:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _row(values: tuple[str | int | None, ...]) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return written.getvalue().encode()


def _cell(value: str | int | None) -> str:
    if value is None:
        return ""
    # A number of ours is no formula, whatever its sign.
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return str(value)
