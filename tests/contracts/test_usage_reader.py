"""The ledger's readers, in one body over SQLite and PostgreSQL: order, watermark, filters and totals (LEDGER.md R6)."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.migrations import upgrade
from backend.adapters.db.usage import COMPLETE_AFTER, SqlUsageReader
from backend.domain.api_keys import Environment
from backend.domain.errors import StoreUnavailable
from backend.domain.ids import TenantId
from backend.domain.usage import (
    LEDGER_START,
    Bucket,
    EventFilter,
    EventPage,
    GroupBy,
    LedgerPosition,
    StoredEvent,
    SummaryLine,
    SummaryQuery,
    UsageEvent,
    bucket_end,
)
from tests.contracts.ledgers import SERVED_AT, Books, an_event, new_tenant, opened_books
from tests.databases import connected, postgres_database, sqlite_url
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

# How long to wait for the watermark: transactions of other tests on the same server hold it back.
WATERMARK_WITHIN_S = 30.0
EVERYTHING = EventFilter()
LONG_AGO, LONG_FROM_NOW = datetime(2020, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)

# SQLite has one writer at a time, so nothing can be open in between.
postgres_only = pytest.mark.parametrize("usage_url", ["postgres"], indirect=True)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def usage_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        url = sqlite_url(tmp_path_factory.mktemp("usage"))
        upgrade(url)
        yield url
        return
    with postgres_database(request.getfixturevalue("postgres_url")) as url:
        upgrade(url)
        yield url


@pytest.fixture(scope="module")
async def books(usage_url: str) -> AsyncIterator[Books]:
    async with opened_books(usage_url) as books:
        yield books


@pytest.fixture(scope="module")
async def ledger(books: Books) -> AsyncIterator[GroupCommitLedger]:
    async with books.writer() as ledger:
        yield ledger


@pytest.fixture
def reader(books: Books, clock: FakeClock) -> SqlUsageReader:
    return SqlUsageReader(books.database, clock)


async def append(ledger: GroupCommitLedger, events: Sequence[UsageEvent]) -> None:
    """Append at once, so that several share a commit."""
    await asyncio.gather(*(ledger.append(event.tenant_id, event) for event in events))


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
        await append(ledger, batch)
        written.append({event.id for event in batch})
    found = await read_until(reader, tenant, 50, limit=limit)
    assert all(first.position < second.position for first, second in pairwise(found))
    in_order = iter(ids(found))
    for batch_ids in written:
        assert {next(in_order) for _ in batch_ids} == batch_ids


async def test_a_page_says_whether_there_is_more(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    await append(ledger, [an_event(tenant) for _ in range(4)])
    await read_until(reader, tenant, 4)
    pages = [await reader.events(tenant, EVERYTHING, LEDGER_START, limit) for limit in (3, 4, 5)]
    assert [(len(page.events), page.has_more) for page in pages] == [(3, True), (4, False), (4, False)]


async def test_r6_reading_on_finds_only_what_is_new(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    await append(ledger, [an_event(tenant) for _ in range(3)])
    place = (await read_until(reader, tenant, 3))[-1].position
    assert (await reader.events(tenant, EVERYTHING, place, 100)).events == ()
    later = an_event(tenant)
    await ledger.append(tenant, later)
    assert ids((await read_past(reader, tenant, place, 1)).events) == [later.id]


async def test_r6_everything_read_lies_below_the_watermark(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    for _ in range(3):
        await append(ledger, [an_event(tenant) for _ in range(5)])
        page = await reader.events(tenant, EVERYTHING, LEDGER_START, 100)
        assert all(stored.position < page.watermark for stored in page.events)


async def test_r6_a_reader_beside_several_writers_misses_and_repeats_nothing(
    usage_url: str, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    written: list[str] = []
    read: list[StoredEvent] = []
    running = 4

    async def replica() -> None:
        nonlocal running
        async with opened_books(usage_url) as books, books.writer(max_batch=3) as ledger:
            for _ in range(25):
                events = [an_event(tenant) for _ in range(4)]
                await append(ledger, events)
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
    await append(ledger, events)
    await read_until(reader, tenant, len(events))
    choices = {"period": "2026-08", "credential_id": "key_b", "model": "wine"}
    for count in range(len(choices) + 1):
        for chosen in combinations(choices.items(), count):
            expected = [event.id for event in events if all(getattr(event, name) == value for name, value in chosen)]
            found = await read_on(reader, tenant, wanted=EventFilter(**dict(chosen)), limit=3)
            assert len(found) == 16 >> count
            assert sorted(ids(found)) == sorted(expected)


async def test_nobody_reads_another_tenants_usage(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenants = [new_tenant() for _ in range(3)]
    events = {tenant: an_event(tenant, units=number) for number, tenant in enumerate(tenants, 1)}
    await append(ledger, list(events.values()))
    for tenant in tenants:
        own = events[tenant]
        assert ids(await read_until(reader, tenant, 1)) == [own.id]
        assert [line.units for line in await summary(reader, tenant)] == [own.units]
        assert await reader.units_in_period(tenant, Environment.LIVE, own.period, None) == own.units


async def test_billing_reads_all_tenants_in_one_order(ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenants = [new_tenant() for _ in range(3)]
    start = await newest_position(ledger, reader)
    events = [an_event(tenant) for tenant in tenants for _ in range(4)]
    await append(ledger, events)
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


# Totals

KEYS, MODELS = ("key_a", "key_b"), ("iris", "wine")
ENVIRONMENTS = tuple(Environment)
EDGES = tuple(
    edge + step
    for edge in (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 7, 15, 13, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2028, 2, 29, tzinfo=UTC),
    )
    for step in (timedelta(microseconds=-1), timedelta(0), timedelta(microseconds=1))
)
instants = st.sampled_from(EDGES) | st.integers(0, 90 * 86_400_000_000).map(
    lambda microseconds: datetime(2025, 12, 15, tzinfo=UTC) + timedelta(microseconds=microseconds)
)
usages = st.fixed_dictionaries(
    {
        "occurred_at": instants,
        "credential_id": st.sampled_from(KEYS),
        "model": st.sampled_from(MODELS),
        "environment": st.sampled_from(ENVIRONMENTS),
        "units": st.integers(1, 1000),
        "cached_units": st.integers(0, 1000),
        "billable_units": st.integers(0, 1000),
    }
)
queries = st.builds(
    lambda bounds, bucket, group_by: SummaryQuery(
        start=min(bounds), end=max(bounds), bucket=bucket, group_by=tuple(group_by)
    ),
    bounds=st.tuples(instants, instants) | st.just((LONG_AGO, LONG_FROM_NOW)),
    bucket=st.sampled_from(Bucket),
    group_by=st.lists(st.sampled_from(GroupBy), unique=True),
)


async def summary(
    reader: SqlUsageReader,
    tenant: TenantId,
    *,
    bucket: Bucket = Bucket.DAY,
    group_by: tuple[GroupBy, ...] = (),
    start: datetime = LONG_AGO,
    end: datetime = LONG_FROM_NOW,
) -> tuple[SummaryLine, ...]:
    return await reader.summary(tenant, SummaryQuery(start=start, end=end, bucket=bucket, group_by=group_by))


def bucket_start(at: datetime, bucket: Bucket) -> datetime:
    match bucket:
        case Bucket.HOUR:
            return at.replace(minute=0, second=0, microsecond=0)
        case Bucket.DAY:
            return at.replace(hour=0, minute=0, second=0, microsecond=0)
        case Bucket.MONTH:
            return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def group_of(event: UsageEvent, group_by: GroupBy) -> str:
    return {
        GroupBy.MODEL: event.model,
        GroupBy.KEY: event.credential_id,
        GroupBy.ENVIRONMENT: event.environment.value,
    }[group_by]


def computed(events: Sequence[UsageEvent], query: SummaryQuery, now: datetime) -> tuple[SummaryLine, ...]:
    """Sum up in plain Python."""
    lines: dict[tuple[datetime, tuple[str, ...]], list[UsageEvent]] = defaultdict(list)
    for event in events:
        if query.start <= event.occurred_at < query.end:
            group = tuple(group_of(event, by) for by in query.group_by)
            lines[bucket_start(event.occurred_at, query.bucket), group].append(event)
    return tuple(
        SummaryLine(
            start=start,
            group=tuple(zip(query.group_by, group, strict=True)),
            events=len(members),
            units=sum(event.units for event in members),
            cached_units=sum(event.cached_units for event in members),
            billable_units=sum(event.billable_units for event in members),
            complete=bucket_end(start, query.bucket) + COMPLETE_AFTER <= now,
        )
        for (start, group), members in sorted(lines.items())
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=st.lists(usages, max_size=25), asked=st.lists(queries, min_size=1, max_size=4))
async def test_a_summary_equals_a_plain_sum(
    ledger: GroupCommitLedger,
    reader: SqlUsageReader,
    clock: FakeClock,
    usage: list[dict[str, Any]],
    asked: list[SummaryQuery],
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant, **each) for each in usage]
    await append(ledger, events)
    for query in asked:
        assert await reader.summary(tenant, query) == computed(events, query, clock.now())


async def test_a_summary_is_exact_at_once(books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader) -> None:
    tenant = new_tenant()
    with connected(books.url) as somebody:
        # Not even somebody else's open transaction delays it, which holds the watermark back on PostgreSQL.
        if books.is_postgres:
            current_transaction(somebody)
        await ledger.append(tenant, an_event(tenant, units=3))
        assert [line.units for line in await summary(reader, tenant)] == [3]


@pytest.mark.parametrize(
    ("bucket", "last_instant", "end"),
    [
        (Bucket.HOUR, datetime(2026, 7, 15, 12, 59, 59, 999999, tzinfo=UTC), datetime(2026, 7, 15, 13, tzinfo=UTC)),
        (Bucket.DAY, datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)),
        (Bucket.MONTH, datetime(2026, 12, 31, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        (Bucket.MONTH, datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
async def test_a_bucket_is_complete_once_nothing_can_be_added(
    ledger: GroupCommitLedger,
    reader: SqlUsageReader,
    clock: FakeClock,
    bucket: Bucket,
    last_instant: datetime,
    end: datetime,
) -> None:
    tenant = new_tenant()
    await ledger.append(tenant, an_event(tenant, occurred_at=last_instant))
    seen = []
    for now in (last_instant, end, end + COMPLETE_AFTER - timedelta(milliseconds=1), end + COMPLETE_AFTER):
        clock.set(now)
        [line] = await summary(reader, tenant, bucket=bucket)
        seen.append(line.complete)
    assert seen == [False, False, False, True]


async def test_units_are_counted_by_environment_period_and_key(
    ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    august = SERVED_AT + timedelta(days=31)
    await append(
        ledger,
        [
            an_event(tenant, units=1, cached_units=1),
            an_event(tenant, units=2, model="wine"),
            an_event(tenant, units=4, credential_id="key_b"),
            an_event(tenant, units=8, environment=Environment.TEST),
            an_event(tenant, units=16, occurred_at=august),
            an_event(new_tenant(), units=32),
        ],
    )
    questions = {
        (Environment.LIVE, "2026-07", None): 1 + 2 + 4,
        (Environment.LIVE, "2026-07", "key_a"): 1 + 2,
        (Environment.LIVE, "2026-07", "key_b"): 4,
        (Environment.LIVE, "2026-07", "key_c"): 0,
        (Environment.TEST, "2026-07", None): 8,
        (Environment.LIVE, "2026-08", "key_a"): 16,
        (Environment.TEST, "2026-08", None): 0,
    }
    found = {question: await reader.units_in_period(tenant, *question) for question in questions}
    assert found == questions


@pytest.mark.parametrize(
    "dead_url", ["sqlite+aiosqlite:////nowhere/forecourt.db", "postgresql+psycopg://nobody@127.0.0.1:1/nothing"]
)
async def test_a_store_that_does_not_answer_is_unavailable(dead_url: str, clock: FakeClock) -> None:
    async with opened_books(dead_url, timeout_s=1.0) as books:
        reader = SqlUsageReader(books.database, clock)
        with pytest.raises(StoreUnavailable):
            await reader.events(new_tenant(), EVERYTHING, LEDGER_START, 10)
        with pytest.raises(StoreUnavailable):
            await summary(reader, new_tenant())
        with pytest.raises(StoreUnavailable):
            await reader.units_in_period(new_tenant(), Environment.LIVE, "2026-07", None)


# Somebody else's transactions


def insert(connection: Connection, event: UsageEvent) -> None:
    """Insert an event, as another replica does, and leave the transaction open."""
    connection.execute(
        text(
            "INSERT INTO usage_events (event_id, tenant_id, credential_id, environment, model, model_version, units,"
            " cached_units, billable_units, reason, plan_id, plan_version, request_id, occurred_at, period,"
            " fingerprint, stored_at)"
            " VALUES (:event_id, :tenant_id, :credential_id, :environment, :model, :model_version, :units,"
            " :cached_units, :billable_units, :reason, :plan_id, :plan_version, :request_id, :occurred_at, :period,"
            " :fingerprint, :stored_at)"
        ),
        {
            "event_id": event.id,
            "tenant_id": event.tenant_id,
            "credential_id": event.credential_id,
            "environment": event.environment.value,
            "model": event.model,
            "model_version": event.model_version,
            "units": event.units,
            "cached_units": event.cached_units,
            "billable_units": event.billable_units,
            "reason": event.reason.value,
            "plan_id": event.plan_id,
            "plan_version": event.plan_version,
            "request_id": event.request_id,
            "occurred_at": event.occurred_at,
            "period": event.period,
            "fingerprint": event.fingerprint(),
            "stored_at": datetime.now(UTC),
        },
    )


def current_transaction(connection: Connection) -> int:
    """Return the transaction's id, which it has from then on."""
    return int(connection.execute(text("SELECT pg_current_xact_id()::text")).scalar_one())
