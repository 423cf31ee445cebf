"""Exports of closed periods: the same bytes every time, from any byte on, in constant memory (LEDGER.md R11)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from backend.domain.billing_periods import ClosedPeriod, ExportFile, ExportFormat, ExportMark
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.errors import PeriodOpen, UsageExpired
from backend.domain.ids import TenantId
from backend.domain.usage_records import Record, write_header, write_record, write_trailer
from backend.services.billing import pages_of
from backend.services.billing_access import require_period, required_tenant
from backend.services.ports import Store, UsageReader


class ExportChanged(Exception):
    """What is written is not what was closed: somebody changed the ledger past its protection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """An export that is about to be written."""

    tenant_id: TenantId
    file: ExportFile
    closed: ClosedPeriod
    form: ExportFormat


class ExportService:
    """Writes closed periods out."""

    def __init__(self, *, store: Store, reader: UsageReader) -> None:
        self._store = store
        self._reader = reader

    async def open(
        self, caller: Caller | PlatformCaller, period: str, form: ExportFormat, *, tenant_id: str | None
    ) -> Export:
        """Return what an export is, before its first byte.

        Raises:
            PeriodOpen: the period is not closed.
            UsageExpired: its events are not kept any more.
            NotFound: there is no such tenant, or it is not the caller's.
        """
        require_period(period)
        return await self.open_of(await required_tenant(self._store, caller, tenant_id), period, form)

    async def open_of(self, tenant_id: TenantId, period: str, form: ExportFormat) -> Export:
        """The same for a tenant that is known.

        Raises:
            PeriodOpen: the period is not closed.
            UsageExpired: its events are not kept any more.
        """
        async with self._store.unit_of_work(read_only=True) as unit:
            closed = await unit.periods.closed(tenant_id, period)
        if closed is None:
            raise PeriodOpen("This period is not closed yet, so there is nothing to export.")
        if await self._reader.is_expired(tenant_id, period):
            raise UsageExpired
        return Export(tenant_id=tenant_id, file=closed.files[form], closed=closed, form=form)

    async def write(self, export: Export, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield an export's bytes from ``start`` on and before ``end``.

        Raises:
            ExportChanged: they are not as many as there were.
        """
        mark = next((each for each in reversed(export.closed.marks[export.form]) if each.offset_bytes <= start), None)
        at = 0 if mark is None else mark.offset_bytes
        async for chunk in self._chunks(export, mark):
            piece = chunk[max(0, start - at) : max(0, end - at)]
            at += len(chunk)
            if piece:
                yield piece
            if at >= end:
                break
        if at < end or (end == export.file.size_bytes and at != end):
            raise ExportChanged

    async def _chunks(self, export: Export, mark: ExportMark | None) -> AsyncIterator[bytes]:
        closed = export.closed
        if mark is None:
            yield write_header(export.form)
        async for page in pages_of(self._store, self._reader, closed.tenant_id, closed.period, mark):
            # Off the loop: the process has requests to answer.
            yield await asyncio.to_thread(_written, page, export.form)
        yield write_trailer(closed.tenant_id, closed.period, closed.totals, export.form)


def _written(page: Sequence[Record], form: ExportFormat) -> bytes:
    return b"".join([write_record(record, form) for record in page])
