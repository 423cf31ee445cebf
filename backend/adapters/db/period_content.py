"""A closed period as a JSON document and back."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from backend.domain.billing_periods import ClosedPeriod, ControlTotals, ExportFile, ExportFormat, ExportMark
from backend.domain.ids import TenantId
from backend.domain.statements import LineKind, StatementLine


def to_content(closed: ClosedPeriod) -> dict[str, Any]:
    """Return what is kept of a closed period."""
    return {
        "totals": asdict(closed.totals),
        "lines": [asdict(line) for line in closed.lines],
        "files": {
            form.value: {"size_bytes": file.size_bytes, "sha256": file.sha256.hex()}
            for form, file in closed.files.items()
        },
        "marks": {form.value: [asdict(mark) for mark in marks] for form, marks in closed.marks.items()},
    }


def from_content(tenant_id: TenantId, period: str, closed_at: datetime, content: dict[str, Any]) -> ClosedPeriod:
    """Return a closed period as it was kept."""
    return ClosedPeriod(
        tenant_id=tenant_id,
        period=period,
        closed_at=closed_at,
        totals=ControlTotals(**content["totals"]),
        lines=tuple(StatementLine(**{**line, "kind": LineKind(line["kind"])}) for line in content["lines"]),
        files={
            ExportFormat(form): ExportFile(size_bytes=file["size_bytes"], sha256=bytes.fromhex(file["sha256"]))
            for form, file in content["files"].items()
        },
        marks={
            ExportFormat(form): tuple(ExportMark(**mark) for mark in marks) for form, marks in content["marks"].items()
        },
    )
