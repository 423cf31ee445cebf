"""Folds a period's records, in order and a page at a time, into all that is kept of it when it is closed."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from backend.domain.billing_periods import (
    MARK_EVERY,
    ClosedPeriod,
    ControlTotals,
    ExportFile,
    ExportFormat,
    ExportMark,
)
from backend.domain.ids import TenantId
from backend.domain.statements import StatementLine, total_micros
from backend.domain.usage import LedgerPosition, PlanUsage, StoredEvent
from backend.domain.usage_records import Record, write_header, write_record, write_trailer


class _File:
    """One export as it grows, of which only the length and the digest are kept."""

    def __init__(self, form: ExportFormat) -> None:
        self._form = form
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self.marks: list[ExportMark] = []
        self.add(write_header(form))

    def add(self, line: bytes) -> None:
        self._digest.update(line)
        self._size_bytes += len(line)

    def mark(self, record: Record) -> None:
        """Note that what follows this record begins here."""
        self.marks.append(
            ExportMark(
                is_event=isinstance(record, StoredEvent),
                position=str(record.position),
                offset_bytes=self._size_bytes,
            )
        )

    def ended(self, trailer: bytes) -> ExportFile:
        self.add(trailer)
        return ExportFile(size_bytes=self._size_bytes, sha256=self._digest.digest())


class PeriodFold:
    """Sums, digests and lengths, in constant memory."""

    def __init__(self, tenant_id: TenantId, period: str) -> None:
        self._tenant_id = tenant_id
        self._period = period
        self._files = {form: _File(form) for form in ExportFormat}
        self._canonical = hashlib.sha256()
        self._usage: dict[tuple[str, int], list[int]] = {}
        self._first: LedgerPosition | None = None
        self._last: LedgerPosition | None = None
        self._count = 0
        self._adjustments = self._units = self._billable_units = 0

    @property
    def usage(self) -> tuple[PlanUsage, ...]:
        """What the events came to under each plan version."""
        return tuple(
            PlanUsage(plan_id=plan_id, plan_version=version, events=events, units=units, billable_units=billable)
            for (plan_id, version), (events, units, billable) in sorted(self._usage.items())
        )

    def add(self, records: Sequence[Record]) -> None:
        """Take the next records."""
        for record in records:
            self._write(record)
            self._count_in(record)
            self._count += 1
            if self._count % MARK_EVERY == 0:
                for file in self._files.values():
                    file.mark(record)

    def _write(self, record: Record) -> None:
        for form, file in self._files.items():
            line = write_record(record, form)
            file.add(line)
            if form is ExportFormat.NDJSON:
                self._canonical.update(line)

    def _count_in(self, record: Record) -> None:
        if not isinstance(record, StoredEvent):
            self._adjustments += 1
            self._units += record.adjustment.units
            self._billable_units += record.adjustment.billable_units
            return
        event = record.event
        self._units += event.units
        self._billable_units += event.billable_units
        sums = self._usage.setdefault((event.plan_id, event.plan_version), [0, 0, 0])
        sums[0] += 1
        sums[1] += event.units
        sums[2] += event.billable_units
        self._first = self._first or record.position
        self._last = record.position

    def close(self, lines: tuple[StatementLine, ...], currency: str, at: datetime) -> ClosedPeriod:
        """Return what is kept. The fold takes no further records."""
        totals = ControlTotals(
            events=self._count - self._adjustments,
            adjustments=self._adjustments,
            units=self._units,
            billable_units=self._billable_units,
            amount_micros=total_micros(lines),
            currency=currency,
            first_position=str(self._first) if self._first else None,
            last_position=str(self._last) if self._last else None,
            sha256=self._canonical.hexdigest(),
        )
        return ClosedPeriod(
            tenant_id=self._tenant_id,
            period=self._period,
            closed_at=at,
            totals=totals,
            lines=lines,
            files={
                form: file.ended(write_trailer(self._tenant_id, self._period, totals, form))
                for form, file in self._files.items()
            },
            marks={form: tuple(file.marks) for form, file in self._files.items()},
        )
