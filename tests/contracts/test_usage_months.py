"""The ledger's months on PostgreSQL: made ahead, each event in its own, and none of the ledger's promises weaker."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backend.adapters.db.ledger import EventConflict
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.db.usage_months import AHEAD, SqlUsageMonths
from backend.domain.errors import StoreUnavailable
from backend.domain.ids import new_id
from backend.domain.usage import LEDGER_START, EventFilter, UsageEvent
from tests.contracts.ledgers import Books, an_event, append_all, new_tenant, opened_books
from tests.databases import connected, migrated_sqlite, postgres_database
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

# Later than any month that a migration makes.
FIRST = datetime(2071, 3, 14, 15, 9, 26, tzinfo=UTC)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A database of the test's own, as its months are what is looked at."""
    with postgres_database(postgres_url, is_migrated=True) as url:
        yield url


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    async with opened_books(database_url) as books:
        yield books


def minted(at: datetime) -> UsageEvent:
    """Return an event whose id was made at an instant."""
    return an_event(new_tenant(), occurred_at=at, id=new_id("evt", at_s=at.timestamp()))


def partitions(books: Books) -> dict[str, int]:
    """Return how many events lie in each part of the ledger."""
    query = (
        "SELECT tableoid::regclass::text, count(*) FROM usage_events GROUP BY 1 UNION ALL "
        "SELECT inhrelid::regclass::text, 0 FROM pg_inherits WHERE inhparent = 'usage_events'::regclass"
    )
    with connected(books.url) as connection:
        found: dict[str, int] = {}
        for name, count in connection.execute(text(query)):
            found[name] = found.get(name, 0) + count
    return found


def months(books: Books) -> set[str]:
    return {name for name in partitions(books) if name.startswith("usage_events_2071")}


async def test_months_are_there_before_they_begin_once(books: Books) -> None:
    clock = FakeClock(FIRST)
    makers = [SqlUsageMonths(books.database, clock) for _ in range(4)]
    # Whoever finds another at it leaves it to the other, or to the next time.
    made = sum(await asyncio.gather(*(each.make() for each in makers)))
    assert made + await makers[0].make() == AHEAD + 1
    assert months(books) == {f"usage_events_2071_{month:02d}" for month in (3, 4, 5, 6)}
    assert await makers[0].make() == 0
    clock.advance(31 * 86_400)
    assert await makers[0].make() == 1


async def test_an_event_lies_in_the_month_in_which_its_id_was_minted(books: Books) -> None:
    await SqlUsageMonths(books.database, FakeClock(FIRST)).make()
    edge = datetime(2071, 4, 1, tzinfo=UTC)
    events = [minted(at) for at in (FIRST, edge - timedelta(milliseconds=1), edge, edge + timedelta(milliseconds=1))]
    # What is not an id of ours finds a place all the same.
    events += [an_event(new_tenant(), id=name) for name in ("evt_1", "x", "evt_~", "")]
    async with books.writer() as ledger:
        await append_all(ledger, events)
    found = {name: count for name, count in partitions(books).items() if count}
    assert found == {"usage_events_2071_03": 2, "usage_events_2071_04": 2, "usage_events_other": 4}


async def test_r3_what_came_before_its_month_was_made_is_moved_into_it_and_stays_what_it_is(books: Books) -> None:
    reader = SqlUsageReader(books.database, FakeClock(FIRST))
    events = [minted(FIRST + timedelta(days=20 * number)) for number in range(12)]
    async with books.writer() as ledger:
        await append_all(ledger, events)
        with anyio.fail_after(30):
            # Whatever transaction is open elsewhere holds the watermark back.
            while len((before := await reader.events_of_all_tenants(EventFilter(), LEDGER_START, 100)).events) < 12:
                await anyio.sleep(0.01)
        assert partitions(books)["usage_events_other"] == 12
        assert await SqlUsageMonths(books.database, FakeClock(FIRST)).make() == AHEAD + 1
        assert (await reader.events_of_all_tenants(EventFilter(), LEDGER_START, 100)).events == before.events
        found = partitions(books)
        assert sum(count for name, count in found.items() if name in months(books)) == sum(
            each.occurred_at < datetime(2071, 7, 1, tzinfo=UTC) for each in events
        )
        assert sum(found.values()) == 12
        # Handed in again, as a drain does: nothing is booked twice, and a contradiction is one still.
        await append_all(ledger, events)
        assert sum(partitions(books).values()) == 12
        with pytest.raises(EventConflict):
            await ledger.append(
                events[0].tenant_id,
                # Of another month by its content: the id alone decides.
                replace(events[0], units=9, occurred_at=FIRST + timedelta(days=40), period="2071-04"),
            )


async def test_no_insert_fails_or_is_lost_while_months_are_made(books: Books) -> None:
    events = [minted(FIRST + timedelta(days=number % 90)) for number in range(300)]
    maker = SqlUsageMonths(books.database, FakeClock(FIRST))
    async with books.writer(max_batch=5) as ledger:
        await asyncio.gather(append_all(ledger, events), maker.make())
    assert sum(partitions(books).values()) == 300
    assert partitions(books)["usage_events_other"] == 0


@contextmanager
def a_reader_in_the_way(url: str) -> Iterator[None]:
    """Hold what whoever reads the ledger holds."""
    with connected(url) as connection:
        connection.execute(text("SELECT count(*) FROM usage_events"))
        yield
        connection.rollback()


async def test_writers_do_not_wait_for_a_month_that_readers_hold_up(books: Books) -> None:
    maker = SqlUsageMonths(books.database, FakeClock(FIRST))
    with a_reader_in_the_way(books.url):
        async with books.writer() as ledger:
            making = asyncio.create_task(maker.make())
            await append_all(ledger, [minted(datetime.now(UTC)) for _ in range(20)])
            with pytest.raises(StoreUnavailable):
                await making
    assert await maker.make() == AHEAD + 1


# Rights


def parts_of(books: Books) -> list[str]:
    return sorted(partitions(books))


async def attempt(books: Books, statement: str) -> None:
    """Try a statement as the application does that sees every tenant."""
    async with books.database.engine.begin() as connection:
        await connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
        await connection.execute(text(statement))


@pytest.mark.parametrize(
    "verb",
    [
        "SELECT * FROM {}",
        "DELETE FROM {}",
        "UPDATE {} SET units = 0",
        "TRUNCATE {}",
        "INSERT INTO {} SELECT * FROM usage_events",
        "DROP TABLE {}",
        "ALTER TABLE usage_events DETACH PARTITION {}",
        "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    ],
)
async def test_a2_r8_the_application_has_no_way_around_the_ledger_to_its_parts(books: Books, verb: str) -> None:
    await SqlUsageMonths(books.database, FakeClock(FIRST)).make()
    for part in parts_of(books):
        with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
            await attempt(books, verb.format(part))


async def test_a2_r8_each_part_has_the_protection_of_the_whole(books: Books) -> None:
    await SqlUsageMonths(books.database, FakeClock(FIRST)).make()
    async with books.writer() as ledger:
        await append_all(ledger, [minted(FIRST)])
    with connected(books.url) as owner:
        for part in parts_of(books):
            state = owner.execute(
                text(f"SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = '{part}'::regclass")
            ).one()
            assert tuple(state) == (True, True), part
            policies = owner.execute(text(f"SELECT count(*) FROM pg_policies WHERE tablename = '{part}'")).scalar_one()
            assert policies == 1
    for change in ("DELETE FROM {}", "UPDATE {} SET units = 0", "TRUNCATE {}"):
        for part in parts_of(books):
            with connected(books.url) as owner, pytest.raises(DBAPIError, match="append only"):
                owner.execute(text(change.format(part)))


async def test_a2_the_functions_are_nobody_elses(books: Books) -> None:
    """Whoever is neither the owner nor the application makes no month and lets none expire."""
    with connected(books.url) as owner:
        owner.execute(text("CREATE ROLE forecourt_stranger NOLOGIN"))
        try:
            owner.execute(text("SET ROLE forecourt_stranger"))
            for call in (
                "forecourt_make_usage_month('2071-01-01')",
                "forecourt_expire_usage_month('2020-01')",
                "forecourt_drop_expired_usage()",
                "forecourt_protect_usage('tenants')",
            ):
                with pytest.raises(DBAPIError, match="permission denied"), owner.begin_nested():
                    owner.execute(text(f"SELECT public.{call}"))
        finally:
            owner.rollback()


async def test_the_application_cannot_protect_or_unprotect_tables(books: Books) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        await attempt(books, "SELECT public.forecourt_protect_usage('tenants')")


async def test_on_sqlite_there_are_no_months_to_make(tmp_path_factory: pytest.TempPathFactory) -> None:
    url = migrated_sqlite(tmp_path_factory.mktemp("months"))
    async with opened_books(url) as books:
        assert await SqlUsageMonths(books.database, FakeClock(FIRST)).make() == 0


@pytest.mark.parametrize("month", [date(1970, 1, 1), date(2026, 11, 1), date(2071, 3, 1), date(9999, 12, 1)])
async def test_a_month_begins_with_the_ids_of_its_first_millisecond(books: Books, month: date) -> None:
    first = datetime(month.year, month.month, 1, tzinfo=UTC).timestamp()
    async with books.database.engine.connect() as connection:
        bound = str(await connection.scalar(text("SELECT public.forecourt_usage_bound(:month)"), {"month": month}))
    assert new_id("evt", at_s=first)[: len(bound)] == bound
    assert bound <= new_id("evt", at_s=first)
    assert first == 0 or new_id("evt", at_s=first - 0.001) < bound
