"""The ledger's readers, in one body over SQLite and PostgreSQL: order, watermark and filters (LEDGER.md R6)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise

import anyio
import pytest

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.api_keys import Environment
from backend.domain.errors import StoreUnavailable
from backend.domain.ids import TenantId, new_id
from backend.domain.usage import (
    LEDGER_START,
    Bucket,
    EventFilter,
    EventPage,
    LedgerPosition,
    StoredEvent,
    SummaryQuery,
)
from tests.contracts.ledgers import (
    SERVED_AT,
    Books,
    an_event,
    append_all,
    current_transaction,
    insert,
    new_tenant,
    opened_books,
)
from tests.databases import connected
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

# How long to wait for the watermark: transactions of other tests on the same server hold it back.
WATERMARK_WITHIN_S = 30.0
EVERYTHING = EventFilter()
A_DAY = SummaryQuery(start=SERVED_AT, end=SERVED_AT + timedelta(days=1), bucket=Bucket.DAY, group_by=())

# SQLite has one writer at a time, so nothing can be open in between.
postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


async def read_on(
    reader: SqlUsageReader,
    tenant: TenantId,
    *,
    wanted: EventFilter = EVERYTHING,
    after: LedgerPosition = LEDGER_START,
    limit: int = 100,
) -> list[StoredEvent]:
    """Page from a position to the watermark."""
    found: list[StoredEvent] = []
    has_more = True
    while has_more:
        page = await reader.events(tenant, wanted, after, limit)
        assert len(page.events) <= limit
        found += page.events
        after = found[-1].position if found else after
        has_more = page.has_more
    return found


async def read_until(
    reader: SqlUsageReader, tenant: TenantId, count: int, *, wanted: EventFilter = EVERYTHING, limit: int = 100
) -> list[StoredEvent]:
    """Read everything, as soon as the watermark lets through as many events as were appended."""
    with anyio.fail_after(WATERMARK_WITHIN_S):
        while len(found := await read_on(reader, tenant, wanted=wanted, limit=limit)) < count:
            await anyio.sleep(0.01)
    return found


async def read_past(reader: SqlUsageReader, tenant: TenantId, after: LedgerPosition, count: int) -> EventPage:
    """Read one page past a position, as soon as it holds as many events."""
    with anyio.fail_after(WATERMARK_WITHIN_S):
        while len((page := await reader.events(tenant, EVERYTHING, after, 100)).events) < count:
            await anyio.sleep(0.01)
    return page


def ids(found: Sequence[StoredEvent]) -> list[str]:
    return [stored.event.id for stored in found]


# Events


async def test_an_event_is_read_as_it_was_written(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    before = datetime.now(UTC)
    await ledger.append(tenant, event)
    [stored] = await read_until(reader, tenant, 1)
    assert stored.event == event
    assert stored.event.occurred_at.tzinfo is not None
    assert before <= stored.stored_at <= datetime.now(UTC)


async def test_an_unused_tenant_has_an_empty_page(reader: SqlUsageReader) -> None:
    page = await reader.events(new_tenant(), EVERYTHING, LEDGER_START, 100)
    assert (page.events, page.has_more) == ((), False)


async def test_a_position_may_be_beyond_all_that_is_written(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    await ledger.append(tenant, an_event(tenant))
    # Transaction ids have 64 bits: after an epoch they are past what an INTEGER holds.
    page = await reader.events(tenant, EVERYTHING, LedgerPosition(2**40, 2**40), 100)
    assert page.events == ()


@pytest.mark.parametrize("limit", [1, 7, 50, 100])
async def test_r6_pages_have_neither_gaps_nor_repeats(
    ledger: GroupCommitLedger, reader: SqlUsageReader, limit: int
) -> None:
    tenant = new_tenant()
    written = []
    for size in (1, 20, 4, 25):
        batch = [an_event(tenant) for _ in range(size)]
        await append_all(ledger, batch)
        written.append({event.id for event in batch})
    found = await read_until(reader, tenant, 50, limit=limit)
    assert all(first.position < second.position for first, second in pairwise(found))
    in_order = iter(ids(found))
    for batch_ids in written:
        assert {next(in_order) for _ in batch_ids} == batch_ids


async def test_a_page_says_whether_there_is_more(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    await append_all(ledger, [an_event(tenant) for _ in range(4)])
    await read_until(reader, tenant, 4)
    pages = [await reader.events(tenant, EVERYTHING, LEDGER_START, limit) for limit in (3, 4, 5)]
    assert [(len(page.events), page.has_more) for page in pages] == [(3, True), (4, False), (4, False)]


async def test_r6_reading_on_finds_only_what_is_new(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    await append_all(ledger, [an_event(tenant) for _ in range(3)])
    place = (await read_until(reader, tenant, 3))[-1].position
    assert (await reader.events(tenant, EVERYTHING, place, 100)).events == ()
    later = an_event(tenant)
    await ledger.append(tenant, later)
    assert ids((await read_past(reader, tenant, place, 1)).events) == [later.id]


async def test_r6_everything_read_lies_below_the_watermark(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    for _ in range(3):
        await append_all(ledger, [an_event(tenant) for _ in range(5)])
        page = await reader.events(tenant, EVERYTHING, LEDGER_START, 100)
        assert all(stored.position < page.watermark for stored in page.events)


async def test_r6_a_reader_beside_several_writers_misses_and_repeats_nothing(
    database_url: str, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    written: list[str] = []
    read: list[StoredEvent] = []
    running = 4

    async def replica() -> None:
        nonlocal running
        async with opened_books(database_url) as books, books.writer(max_batch=3) as ledger:
            for _ in range(25):
                events = [an_event(tenant) for _ in range(4)]
                await append_all(ledger, events)
                written.extend(event.id for event in events)
        running -= 1

    async def tail() -> None:
        while running or len(read) < len(written):
            after = read[-1].position if read else LEDGER_START
            read.extend(await read_on(reader, tenant, after=after, limit=10))
            await anyio.sleep(0)

    with anyio.fail_after(WATERMARK_WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tail)
            for _ in range(running):
                tasks.start_soon(replica)
    assert sorted(ids(read)) == sorted(written)
    assert all(first.position < second.position for first, second in pairwise(read))


@postgres_only
async def test_r6_an_open_transaction_holds_the_watermark_back(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    await ledger.append(tenant, an_event(tenant, model="before"))
    place = (await read_until(reader, tenant, 1))[0].position
    with connected(books.url) as late:
        insert(late, an_event(tenant, model="late"))
        for _ in range(3):
            await ledger.append(tenant, an_event(tenant, model="after"))
        # A reader who went by row number alone would be past the late row now.
        page = await reader.events(tenant, EVERYTHING, place, 100)
        assert page.events == ()
        assert page.watermark <= LedgerPosition(current_transaction(late), 0)
        late.commit()
    page = await read_past(reader, tenant, place, 4)
    assert [stored.event.model for stored in page.events] == ["late", "after", "after", "after"]


@postgres_only
async def test_r6_a_transaction_that_begins_first_and_takes_its_row_last_is_read_in_its_place(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    with connected(books.url) as slow:
        current_transaction(slow)
        await ledger.append(tenant, an_event(tenant, model="quick"))
        insert(slow, an_event(tenant, model="slow"))
        assert (await reader.events(tenant, EVERYTHING, LEDGER_START, 100)).events == ()
        slow.commit()
    found = await read_until(reader, tenant, 2)
    assert [stored.event.model for stored in found] == ["slow", "quick"]
    assert found[0].position.row > found[1].position.row


@postgres_only
async def test_r6_what_is_rolled_back_leaves_no_gap_behind(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    with connected(books.url) as dropped:
        insert(dropped, an_event(tenant, model="dropped"))
        await ledger.append(tenant, an_event(tenant, model="kept"))
        dropped.rollback()
    assert [stored.event.model for stored in await read_until(reader, tenant, 1)] == ["kept"]


async def test_events_are_filtered_by_period_key_and_model(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    events = [
        an_event(tenant, occurred_at=at, credential_id=key, model=model)
        for at in (SERVED_AT, SERVED_AT + timedelta(days=31))
        for key in ("key_a", "key_b")
        for model in ("iris", "wine")
        for _ in range(2)
    ]
    await append_all(ledger, events)
    await read_until(reader, tenant, len(events))
    choices = {"period": "2026-08", "credential_id": "key_b", "model": "wine"}
    for count in range(len(choices) + 1):
        for chosen in combinations(choices.items(), count):
            expected = [event.id for event in events if all(getattr(event, name) == value for name, value in chosen)]
            found = await read_on(reader, tenant, wanted=EventFilter(**dict(chosen)), limit=3)
            assert len(found) == 16 >> count
            assert sorted(ids(found)) == sorted(expected)


@pytest.mark.parametrize("period", ["0000-01", "0000-12", "0001-01", "1969-12", "9999-12"])
async def test_a_period_that_no_event_can_be_of_has_none(
    ledger: GroupCommitLedger, reader: SqlUsageReader, period: str
) -> None:
    tenant = new_tenant()
    await ledger.append(tenant, an_event(tenant))
    assert (await reader.events(tenant, EventFilter(period=period), LEDGER_START, 10)).events == ()
    assert await reader.bounds(tenant, period) is None


async def test_r6_a_period_is_read_in_commit_order_wherever_its_events_are_kept(
    ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    """The month an event came in, by its id, may be another than the period it was admitted in; or no month at all."""
    tenant = new_tenant()
    now = datetime.now(UTC)
    before = now.replace(day=1) - timedelta(days=1)
    ids = {"now": None, "long-ago": datetime(2001, 3, 1, tzinfo=UTC).timestamp(), "before": before.timestamp()}
    appended = [
        an_event(tenant, occurred_at=at, id=new_id("evt", at_s=minted_s))
        for _ in range(3)
        for minted_s in ids.values()
        for at in (now, before)
    ]
    for event in appended:
        await ledger.append(tenant, event)
    stored = await read_until(reader, tenant, len(appended))
    assert [each.event for each in stored] == appended
    for at in (now, before):
        period = f"{at:%Y-%m}"
        of_period = [each for each in stored if each.event.period == period]
        assert len(of_period) == len(appended) // 2
        for limit in (1, 2, 100):
            assert await read_on(reader, tenant, wanted=EventFilter(period=period), limit=limit) == of_period
        assert await reader.bounds(tenant, period) == (of_period[0].position, of_period[-1].position)
    assert await reader.first_period(tenant) == f"{before:%Y-%m}"


async def test_nobody_reads_another_tenants_usage(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenants = [new_tenant() for _ in range(3)]
    events = {tenant: an_event(tenant, units=number) for number, tenant in enumerate(tenants, 1)}
    await append_all(ledger, list(events.values()))
    for tenant in tenants:
        own = events[tenant]
        assert ids(await read_until(reader, tenant, 1)) == [own.id]
        assert [line.units for line in await reader.summary(tenant, A_DAY)] == [own.units]
        assert await reader.units_in_period(tenant, Environment.LIVE, own.period, None) == own.units


async def test_billing_reads_all_tenants_in_one_order(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenants = [new_tenant() for _ in range(3)]
    start = await newest_position(ledger, reader)
    events = [an_event(tenant) for tenant in tenants for _ in range(4)]
    await append_all(ledger, events)
    for tenant in tenants:
        await read_until(reader, tenant, 4)
    found: list[StoredEvent] = []
    while len(found) < len(events):
        after = found[-1].position if found else start
        page = await reader.events_of_all_tenants(EVERYTHING, after, 5)
        assert page.events
        found += page.events
    assert sorted(ids(found)) == sorted(event.id for event in events)
    assert all(first.position < second.position for first, second in pairwise(found))


async def newest_position(ledger: GroupCommitLedger, reader: SqlUsageReader) -> LedgerPosition:
    """Return the position of an event that is appended now."""
    tenant = new_tenant()
    await ledger.append(tenant, an_event(tenant))
    return (await read_until(reader, tenant, 1))[0].position


@pytest.mark.parametrize(
    "dead_url", ["sqlite+aiosqlite:////nowhere/forecourt.db", "postgresql+psycopg://nobody@127.0.0.1:1/nothing"]
)
async def test_a_store_that_does_not_answer_is_unavailable(dead_url: str, clock: FakeClock) -> None:
    async with opened_books(dead_url, timeout_s=1.0) as books:
        reader = SqlUsageReader(books.database, clock)
        with pytest.raises(StoreUnavailable):
            await reader.events(new_tenant(), EVERYTHING, LEDGER_START, 10)
        with pytest.raises(StoreUnavailable):
            await reader.summary(new_tenant(), A_DAY)
        with pytest.raises(StoreUnavailable):
            await reader.units_in_period(new_tenant(), Environment.LIVE, "2026-07", None)
