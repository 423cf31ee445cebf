"""Exports of many events, on SQLite and PostgreSQL: constant memory, and any part without what lies before it (R11)."""

import csv
import hashlib
import io
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest
import sqlalchemy

from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.billing_periods import MARK_EVERY, ExportFormat
from backend.domain.errors import PeriodOpen
from backend.domain.ids import TenantId
from backend.domain.usage import LedgerPosition, StoredEvent
from backend.domain.usage_records import write_record
from backend.services.exports import Export, ExportService
from tests.contracts.closing import OVER, PERIOD, a_closer, a_subscriber, close
from tests.contracts.ledgers import SERVED_AT, Books, an_event, columns_of, new_tenant
from tests.databases import connected
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

EVENTS = 2 * MARK_EVERY + 500
MOST_MEMORY_BYTES = 3_000_000


@pytest.fixture(scope="module")
async def tenant(books: Books) -> TenantId:
    """A tenant whose July is closed, with more events than fit between two marks."""
    tenant = await a_subscriber(books, new_tenant())
    event = columns_of(an_event(tenant))
    with connected(books.url) as connection:
        for start in range(0, EVENTS, 1_000):
            rows = [
                event | {"event_id": f"evt_{number}", "stored_at": SERVED_AT}
                for number in range(start, min(EVENTS, start + 1_000))
            ]
            connection.execute(sqlalchemy.insert(UsageEventRow), rows)
        connection.commit()
    report = await close(a_closer(books, FakeClock(OVER)), tenant)
    assert report.failures == {}
    return tenant


@pytest.fixture(scope="module")
async def files(books: Books, tenant: TenantId) -> dict[ExportFormat, bytes]:
    """The whole of both exports, read once."""
    clock = FakeClock()
    exports = ExportService(store=books.database, reader=SqlUsageReader(books.database, clock))
    return {form: await whole(exports, await exports.open_of(tenant, PERIOD, form)) for form in ExportFormat}


@pytest.fixture
def exports(books: Books, clock: FakeClock) -> ExportService:
    return ExportService(store=books.database, reader=SqlUsageReader(books.database, clock))


async def content(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def whole(exports: ExportService, export: Export) -> bytes:
    return await content(exports.write(export, 0, export.file.size_bytes))


async def test_r11_an_export_takes_the_same_memory_however_long_it_is(exports: ExportService, tenant: TenantId) -> None:
    export = await exports.open_of(tenant, PERIOD, ExportFormat.NDJSON)
    assert export.file.size_bytes > 2 * MOST_MEMORY_BYTES
    digest = hashlib.sha256()
    tracemalloc.start()
    try:
        async for chunk in exports.write(export, 0, export.file.size_bytes):
            digest.update(chunk)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert digest.digest() == export.file.sha256
    assert peak_bytes < MOST_MEMORY_BYTES


@pytest.mark.parametrize("form", ExportFormat)
async def test_r11_any_part_is_that_of_the_whole(
    exports: ExportService, tenant: TenantId, files: dict[ExportFormat, bytes], form: ExportFormat
) -> None:
    export = await exports.open_of(tenant, PERIOD, form)
    everything = files[form]
    assert len(everything) == export.file.size_bytes
    assert hashlib.sha256(everything).digest() == export.file.sha256
    marks = export.closed.marks[form]
    assert [mark.is_event for mark in marks] == [True, True]
    size = len(everything)
    edges = [mark.offset_bytes + step for mark in marks for step in (-1, 0, 1)]
    for start, end in ((0, 1), (size - 1, size), (edges[0], edges[5]), *((edge, edge + 700) for edge in edges)):
        assert await content(exports.write(export, start, end)) == everything[start:end], (start, end)


def test_r11_both_formats_carry_the_same_rows(files: dict[ExportFormat, bytes]) -> None:
    records = [json.loads(line) for line in files[ExportFormat.NDJSON].splitlines()]
    rows = list(csv.DictReader(io.StringIO(files[ExportFormat.CSV].decode(), newline="")))
    assert len(records) == len(rows) == EVENTS + 1
    assert [record.get("id") or "" for record in records] == [row["id"] for row in rows]
    assert records[-1]["events"] == int(rows[-1]["events"]) == EVENTS
    assert records[-1]["sha256"] == rows[-1]["sha256"]


async def test_r11_an_open_period_is_not_exported(exports: ExportService, books: Books) -> None:
    with pytest.raises(PeriodOpen):
        await exports.open_of(await a_subscriber(books, new_tenant()), PERIOD, ExportFormat.CSV)


def test_r9_the_bytes_of_a_record_never_change() -> None:
    """Closed periods are written out again from their rows: whoever changes the form breaks every digest given out."""
    export_of_one = (
        b'{"type":"event","id":"evt_1","position":"0.1","tenant_id":"ten_x","period":"2026-07",'
        b'"occurred_at":"2026-07-15T12:30:15.123456Z","stored_at":"2026-07-15T12:30:15.123456Z","key_id":"key_a",'
        b'"environment":"live","model":"iris","version":"1","units":2,"cached_units":1,"billable_units":1,'
        b'"reason":"live","plan_id":"pln_1","plan_version":1,"request_id":"req_1","corrects_event_id":null,'
        b'"corrects_period":null,"actor":null}\n'
    )
    event = an_event(TenantId("ten_x"), id="evt_1", request_id="req_1")
    stored = StoredEvent(position=LedgerPosition(0, 1), event=event, stored_at=SERVED_AT)
    assert write_record(stored, ExportFormat.NDJSON) == export_of_one
    assert write_record(stored, ExportFormat.CSV) == (
        b"event,evt_1,0.1,ten_x,2026-07,2026-07-15T12:30:15.123456Z,2026-07-15T12:30:15.123456Z,key_a,live,iris,1,"
        b"2,1,1,live,pln_1,1,req_1,,,,,,,,,,\r\n"
    )
