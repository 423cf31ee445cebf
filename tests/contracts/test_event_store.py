"""What the ledger makes of events that it cannot take at once, on SQLite and on PostgreSQL (LEDGER.md R3 to R5)."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from sqlalchemy import event as engine_event
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from backend.adapters.db.engine import open_engine
from backend.adapters.db.event_store import SqlEventStore
from backend.adapters.db.migrations import upgrade
from backend.adapters.db.unit_of_work import Database
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.usage_spill import Stored
from backend.domain.errors import MeteringUnavailable
from backend.services.ports import Metrics
from tests.contracts.ledgers import (
    PATIENT_S,
    SERVED_AT,
    Books,
    an_event,
    columns_of,
    insert,
    new_tenant,
    opened_books,
)
from tests.databases import connected, migrated_sqlite, writers_held_off
from tests.server_process import Server
from tests.servers import private_postgres_server

pytestmark = pytest.mark.anyio

postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
when_served = pytest.mark.parametrize("served_at", [SERVED_AT, datetime.now(UTC)], ids=["long-ago", "now"])
"""An event of an earlier month takes another way than one of the current month."""
BOUND_S = 10.0


@asynccontextmanager
async def opened(books: Books, *, within_s: float, metrics: Metrics) -> AsyncIterator[SqlEventStore]:
    store = SqlEventStore(books.database, within_s=within_s, metrics=metrics)
    yield store
    await store.aclose()


@pytest.fixture
async def store(books: Books, metrics: PrometheusMetrics) -> AsyncIterator[SqlEventStore]:
    async with opened(books, within_s=PATIENT_S, metrics=metrics) as store:
        yield store


@pytest.fixture
async def hasty(database_url: str) -> AsyncIterator[SqlEventStore]:
    async with (
        opened_books(database_url, timeout_s=0.2) as books,
        opened(books, within_s=0.2, metrics=NullMetrics()) as store,
    ):
        yield store


@when_served
async def test_an_event_that_no_database_takes_costs_the_others_nothing(
    books: Books, store: SqlEventStore, served_at: datetime
) -> None:
    tenant = new_tenant()
    good = [an_event(tenant, occurred_at=served_at) for _ in range(6)]
    half_a_character = an_event(tenant, occurred_at=served_at, request_id="\ud800")
    outcomes = await store.write([*good[:3], half_a_character, *good[3:]])
    assert outcomes == [Stored.DURABLE] * 3 + [Stored.UNFIT] + [Stored.DURABLE] * 3
    assert sorted(books.ids(tenant)) == sorted(event.id for event in good)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_event_is_stored_alike_whichever_way_it_takes(books: Books, store: SqlEventStore) -> None:
    tenant = new_tenant()
    for served_at in (SERVED_AT, datetime.now(UTC)):
        assert await store.write([an_event(tenant, occurred_at=served_at)]) == [Stored.DURABLE]
    one, other = books.rows(tenant)
    assert [type(value) for value in one.values()] == [type(value) for value in other.values()]
    for name in ("occurred_at", "stored_at"):
        assert re.sub(r"\d", "0", str(one[name])) == re.sub(r"\d", "0", str(other[name]))


@postgres_only
@when_served
async def test_each_column_holds_what_was_sent(books: Books, store: SqlEventStore, served_at: datetime) -> None:
    tenant = new_tenant()
    plain = an_event(tenant, occurred_at=served_at.replace(microsecond=0), units=2**31 - 1, request_id="")
    strange = an_event(tenant, occurred_at=served_at.replace(microsecond=999_999), model='grö"ße\\{,}(NULL)')
    store.prepare(strange)
    sent_at = datetime.now(UTC)
    assert await store.write([plain, strange]) == [Stored.DURABLE] * 2
    rows = {row["event_id"]: row for row in books.rows(tenant)}
    for event in (plain, strange):
        row = rows[event.id]
        assert {name: row[name] for name in columns_of(event)} == columns_of(event)
        assert sent_at <= row["stored_at"] <= datetime.now(UTC)


async def test_r4_an_event_that_was_prepared_is_still_compared_with_the_ledger(
    books: Books, store: SqlEventStore
) -> None:
    tenant = new_tenant()
    event = an_event(tenant, occurred_at=datetime.now(UTC), units=1)
    other = replace(event, units=2)
    for each in (event, other):
        store.prepare(each)
    assert await store.write([event]) == [Stored.DURABLE]
    assert await store.write([other]) == [Stored.CONFLICT]
    assert [row["units"] for row in books.rows(tenant)] == [1]


@postgres_only
@when_served
async def test_an_event_that_only_the_server_refuses_costs_the_others_nothing(
    books: Books, store: SqlEventStore, served_at: datetime
) -> None:
    tenant = new_tenant()
    good = [an_event(tenant, occurred_at=served_at) for _ in range(2)]
    zero, too_much = (an_event(tenant, occurred_at=served_at, **wrong) for wrong in ({"model": "\0"}, {"units": 2**70}))
    assert await store.write([good[0], zero, too_much, good[1]]) == [
        Stored.DURABLE,
        Stored.UNFIT,
        Stored.UNFIT,
        Stored.DURABLE,
    ]
    assert sorted(books.ids(tenant)) == sorted(event.id for event in good)


@postgres_only
async def test_connections_that_the_server_has_ended_are_replaced(books: Books, store: SqlEventStore) -> None:
    tenant = new_tenant()
    end_all = text(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    for _ in range(2):
        # Several at once have a connection each.
        events = [an_event(tenant, occurred_at=datetime.now(UTC)) for _ in range(3)]
        assert await asyncio.gather(*(store.write([event]) for event in events)) == [[Stored.DURABLE]] * 3
        with connected(books.url) as other:
            assert other.execute(end_all).scalar_one() >= 1
    event = an_event(tenant, occurred_at=datetime.now(UTC))
    assert await store.write([event]) == [Stored.DURABLE]
    assert await store.write([event]) == [Stored.DURABLE]
    assert len(books.ids(tenant)) == 7


@postgres_only
async def test_a_batch_that_the_socket_does_not_take_at_once_is_written_whole(
    books: Books, store: SqlEventStore
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant, occurred_at=datetime.now(UTC), request_id="r" * 4_000) for _ in range(1_000)]
    assert await store.write(events) == [Stored.DURABLE] * len(events)
    assert len(books.ids(tenant)) == len(events)


@postgres_only
async def test_r3_an_event_of_the_current_month_is_written_once_however_often_it_comes(
    books: Books, store: SqlEventStore
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant, occurred_at=datetime.now(UTC)) for _ in range(3)]
    for _ in range(2):
        assert await store.write(events) == [Stored.DURABLE] * 3
    contradiction = replace(events[1], units=99)
    assert await store.write([events[0], contradiction]) == [Stored.DURABLE, Stored.CONFLICT]
    assert [row["units"] for row in books.rows(tenant)] == [2, 2, 2]


async def test_r5_an_event_that_comes_late_lands_in_its_own_period(books: Books, store: SqlEventStore) -> None:
    tenant = new_tenant()
    served_at = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
    late = an_event(tenant, occurred_at=served_at)
    assert await store.write([late]) == [Stored.DURABLE]
    [row] = books.rows(tenant)
    assert row["period"] == "2026-05"
    assert str(row["stored_at"]) > "2026-06"


@postgres_only
async def test_a_deadlock_is_tried_again(books: Books, store: SqlEventStore, metrics: PrometheusMetrics) -> None:
    """Somebody else writes the same two events in the other order; the database makes the ledger give way."""
    tenant = new_tenant()
    first, second = sorted((an_event(tenant) for _ in range(2)), key=lambda event: event.id)
    with connected(books.url) as other:
        other.execute(text("SET deadlock_timeout = '20s'"))
        insert(other, second)
        writing = asyncio.create_task(store.write([first, second]))
        with anyio.fail_after(BOUND_S):
            while not waits_for_a_lock(books.url):
                await anyio.sleep(0.01)
        # Returns once the ledger has been thrown out: only then is the first event's place free.
        await anyio.to_thread.run_sync(insert, other, first)
        other.rollback()
    with anyio.fail_after(BOUND_S):
        assert await writing == [Stored.DURABLE] * 2
    assert metrics.registry.get_sample_value("forecourt_ledger_failures_total") == 1
    assert sorted(books.ids(tenant)) == [first.id, second.id]


async def test_a_probe_finds_what_would_hold_up_a_write(
    books: Books, store: SqlEventStore, hasty: SqlEventStore
) -> None:
    before = len(books.rows(new_tenant()))
    await store.probe()
    with writers_held_off(books.url), pytest.raises((TimeoutError, SQLAlchemyError)):
        await hasty.probe()
    await store.probe()
    assert len(books.rows(new_tenant())) == before


async def test_a_file_that_cannot_grow_takes_nothing_and_recovers(tmp_path: Path) -> None:
    url = migrated_sqlite(tmp_path)
    engine = open_engine(url, pool_size=1, timeout_s=2.0)
    pages: list[str] = []
    engine_event.listen(engine.sync_engine, "begin", lambda connection: [connection.exec_driver_sql(p) for p in pages])
    books = Books(url, Database(engine))
    store = SqlEventStore(books.database, within_s=2.0, metrics=NullMetrics())
    tenant = new_tenant()
    assert await store.write([an_event(tenant)]) == [Stored.DURABLE]
    pages.append("PRAGMA max_page_count = 1")
    with pytest.raises(MeteringUnavailable):
        await store.write([an_event(tenant, model="x" * 2000) for _ in range(50)])
    assert len(books.rows(tenant)) == 1
    pages[:] = ["PRAGMA max_page_count = 1000000"]
    assert await store.write([an_event(tenant)]) == [Stored.DURABLE]
    assert len(books.rows(tenant)) == 2
    await books.database.aclose()


@pytest.fixture(scope="module")
def private_postgres() -> Iterator[Server]:
    with private_postgres_server() as server:
        yield server


@pytest.fixture
async def silent_books(private_postgres: Server) -> AsyncIterator[Books]:
    url = private_postgres.url.replace("postgresql://", "postgresql+psycopg://", 1)
    upgrade(url)
    database = Database(open_engine(url, pool_size=2, timeout_s=0.5))
    yield Books(url, database)
    await database.aclose()


@pytest.fixture
async def silent_store(silent_books: Books) -> AsyncIterator[SqlEventStore]:
    async with opened(silent_books, within_s=0.5, metrics=NullMetrics()) as store:
        yield store


@when_served
async def test_a_silent_server_is_left_alone_after_the_bound(
    private_postgres: Server, silent_books: Books, silent_store: SqlEventStore, served_at: datetime
) -> None:
    """It never says that time is up: neither for a statement, nor for a connection, nor to be cancelled."""
    tenant = new_tenant()
    event = an_event(tenant, occurred_at=served_at)
    await silent_store.write([an_event(tenant, occurred_at=served_at)])
    private_postgres.pause()
    for _ in range(2):
        with anyio.fail_after(BOUND_S), pytest.raises(MeteringUnavailable):
            await silent_store.write([event])
    private_postgres.resume()
    with anyio.fail_after(BOUND_S):
        assert await silent_store.write([event]) == [Stored.DURABLE]
    assert silent_books.ids(tenant).count(event.id) == 1


async def test_r4_a_conflict_is_told_apart_from_what_is_new(books: Books, store: SqlEventStore) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await store.write([event])
    answer = await store.write([replace(event, units=9), an_event(tenant), event])
    assert answer == [Stored.CONFLICT, Stored.DURABLE, Stored.DURABLE]
    assert len(books.rows(tenant)) == 2


def waits_for_a_lock(url: str) -> bool:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with connected(url) as connection:
        return bool(connection.execute(query).scalar_one())
