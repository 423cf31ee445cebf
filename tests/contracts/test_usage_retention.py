"""Old usage expires by whole months that every tenant has closed, on SQLite and PostgreSQL; what it came to stays."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.db.ledger import EventConflict
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.db.usage_months import SqlUsageMonths
from backend.adapters.db.usage_retention import SqlUsageRetention
from backend.adapters.usage_spill import NothingWaits
from backend.domain.api_keys import Environment
from backend.domain.billing_periods import ExportFormat
from backend.domain.callers import ActorKind, Caller, PlatformCaller
from backend.domain.errors import UsageExpired
from backend.domain.ids import TenantId, new_id
from backend.domain.scopes import PlatformRole, Scope
from backend.domain.usage import Bucket, EventFilter, SummaryQuery, UsageEvent
from backend.services.billing import OpenBooks
from backend.services.exports import ExportService
from backend.services.usage import UsageService
from tests.contracts.closing import a_closer, a_subscriber, close
from tests.contracts.ledgers import Books, an_event, append_all, new_tenant, opened_books
from tests.databases import connected, migrated_database
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

# Long ago by any machine's clock: PostgreSQL itself lets no recent month expire.
PERIOD = "2024-07"
BEFORE = datetime(2024, 6, 1, tzinfo=UTC)
JULY = datetime(2024, 7, 15, 12, 30, tzinfo=UTC)
AUGUST = datetime(2024, 8, 15, 12, 30, tzinfo=UTC)
OCTOBER = datetime(2024, 10, 2, tzinfo=UTC)
SECRET = "b7c1f0a4e95d4c8e9a63d2f18e07c5ab"
WITHIN_S = 30.0


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own: what expires is everybody's."""
    with migrated_database(request, tmp_path) as url:
        yield url


postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[Books]:
    async with opened_books(database_url) as books:
        await SqlUsageMonths(books.database, FakeClock(JULY)).make()
        yield books


def minted(tenant: TenantId, at: datetime) -> UsageEvent:
    return an_event(tenant, occurred_at=at, id=new_id("evt", at_s=at.timestamp()))


@dataclass
class Past:
    """Two tenants with usage in July and in August, in October."""

    books: Books
    clock: FakeClock
    tenants: tuple[TenantId, TenantId]

    async def rolled_up(self, *others: TenantId, events: int = 0) -> None:
        rollups = SqlUsageRollups(self.books.database)
        with anyio.fail_after(WITHIN_S):
            while sum([await self.events_folded(tenant) for tenant in (*self.tenants, *others)]) < 12 + events:
                await rollups.fold_of_all_tenants()

    async def events_folded(self, tenant: TenantId) -> int:
        with connected(self.books.url) as owner:
            query = text("SELECT coalesce(sum(events), 0) FROM usage_rollups WHERE tenant_id = :tenant")
            return int(owner.execute(query, {"tenant": tenant}).scalar_one())

    async def closed(self, *tenants: TenantId, period: str = PERIOD) -> None:
        for tenant in tenants:
            assert (await close(a_closer(self.books, self.clock), tenant, period)).failures == {}

    def retention(self, keep_months: int = 2) -> SqlUsageRetention:
        return SqlUsageRetention(self.books.database.engine, self.clock, keep_months=keep_months)

    def periods(self, tenant: TenantId) -> list[str]:
        return [row["period"] for row in self.books.rows(tenant)]

    @property
    def reader(self) -> SqlUsageReader:
        return SqlUsageReader(self.books.database, self.clock)

    @property
    def exports(self) -> ExportService:
        return ExportService(store=self.books.database, reader=self.reader)

    @property
    def service(self) -> UsageService:
        return UsageService(reader=self.reader, waiting=NothingWaits(), cursors=HmacCursors(SECRET), clock=self.clock)


@pytest.fixture
async def past(books: Books) -> Past:
    one, other = [await a_subscriber(books, new_tenant(), since=BEFORE) for _ in range(2)]
    async with books.writer() as ledger:
        await append_all(
            ledger,
            [
                minted(tenant, at + timedelta(hours=n))
                for tenant in (one, other)
                for at in (JULY, AUGUST)
                for n in range(3)
            ],
        )
    return Past(books, FakeClock(OCTOBER), (one, other))


async def test_a_month_expires_once_every_tenant_has_closed_it_and_it_is_rolled_up(past: Past) -> None:
    one, other = past.tenants
    await past.closed(one)
    await past.rolled_up()
    assert await past.retention().expire() == 0, "another tenant's July is open"
    await past.closed(other)
    assert await past.retention(keep_months=3).expire() == 0, "July is kept"
    assert await past.retention().expire() == 1
    assert [past.periods(tenant) for tenant in past.tenants] == [["2024-08"] * 3] * 2
    assert await past.retention().expire() == 0
    assert await past.retention(keep_months=1).expire() == 0, "August is open"
    await past.closed(one, other, period="2024-08")
    assert await past.retention(keep_months=1).expire() == 1
    assert [past.periods(tenant) for tenant in past.tenants] == [[], []]


@postgres_only
async def test_a_month_waits_for_what_it_holds_of_another(past: Past) -> None:
    """An event is kept by when its request came, and belongs to the period in which it was admitted."""
    visitor = await a_subscriber(past.books, new_tenant(), since=BEFORE)
    midnight = datetime(2024, 8, 1, tzinfo=UTC)
    came_at_s = (midnight - timedelta(milliseconds=2)).timestamp()
    async with past.books.writer() as ledger:
        await ledger.append(visitor, an_event(visitor, occurred_at=midnight, id=new_id("evt", at_s=came_at_s)))
    await past.closed(*past.tenants)
    await past.rolled_up(visitor, events=1)
    assert await past.retention().expire() == 0, "something of August is among what came in July"
    await past.closed(*past.tenants, period="2024-08")
    assert await past.retention(keep_months=1).expire() == 1, "the visitor's August is open, and not in August"
    assert [len(past.periods(tenant)) for tenant in (*past.tenants, visitor)] == [3, 3, 1]
    await past.closed(visitor, period="2024-08")
    assert await past.retention(keep_months=1).expire() == 1
    expired = [await past.reader.is_expired(visitor, period) for period in (PERIOD, "2024-08")]
    assert expired == [False, True]


async def test_what_is_not_rolled_up_does_not_expire(past: Past) -> None:
    await past.closed(*past.tenants)
    assert await past.retention().expire() == 0
    await past.rolled_up()
    assert await past.retention().expire() == 1


async def test_what_a_month_came_to_is_there_after_its_events_are_gone(past: Past) -> None:
    tenant = past.tenants[0]
    await past.closed(*past.tenants)
    await past.rolled_up()

    async def answers() -> tuple[object, ...]:
        open_books = OpenBooks(store=past.books.database, reader=past.reader, clock=past.clock)
        whole = SummaryQuery(
            start=JULY.replace(day=1, hour=0, minute=0),
            end=AUGUST.replace(hour=13, minute=0),
            bucket=Bucket.HOUR,
            group_by=(),
        )
        return (
            await open_books.statement(tenant, PERIOD),
            await open_books.statement(tenant, "2024-08"),
            await past.reader.summary(tenant, whole),
            await past.reader.plan_usage(tenant, PERIOD),
            await past.reader.units_in_period(tenant, Environment.LIVE, PERIOD, None),
            await a_closer(past.books, past.clock).compare(tenant, PERIOD),
        )

    before = await answers()
    assert await past.retention().expire() == 1
    assert await answers() == before


async def test_who_asks_for_expired_events_is_told_so(past: Past) -> None:
    kind, scopes = ActorKind.SERVICE_ACCOUNT, frozenset({Scope.USAGE_READ})
    tenant = Caller(kind=kind, credential_id="sva_1", tenant_id=past.tenants[0], scopes=scopes)
    platform = PlatformCaller(kind=kind, credential_id="sva_2", role=PlatformRole.BILLING_READER, scopes=scopes)
    await past.closed(*past.tenants)
    await past.rolled_up()
    await past.retention().expire()
    with pytest.raises(UsageExpired):
        await past.exports.open_of(past.tenants[0], PERIOD, ExportFormat.NDJSON)
    for caller in (tenant, platform):
        with pytest.raises(UsageExpired):
            await past.service.events(caller, EventFilter(period=PERIOD), cursor=None, limit=10)
    answer = await past.service.events(tenant, EventFilter(), cursor=None, limit=10)
    assert {each.event.period for each in answer.page.events} == {"2024-08"}
    assert len((await past.service.events(platform, EventFilter(), cursor=None, limit=10)).page.events) == 6
    with pytest.raises(UsageExpired) as refused:
        await past.service.summary(tenant, start=JULY, end=AUGUST, bucket=Bucket.DAY, group_by=())
    assert [each.pointer for each in refused.value.errors] == ["/query/from"]
    hour = JULY.replace(minute=0)
    _, lines = await past.service.summary(tenant, start=hour, end=AUGUST, bucket=Bucket.MONTH, group_by=())
    assert [line.events for line in lines] == [3]


async def test_r3_an_event_that_comes_back_after_its_month_expired_is_not_booked_again(past: Past) -> None:
    tenant = past.tenants[0]
    stored = [row["event_id"] for row in past.books.rows(tenant)]
    await past.closed(*past.tenants)
    booked = minted(tenant, JULY)
    async with past.books.writer(clock=past.clock) as ledger:
        await ledger.append(tenant, booked)
        await past.rolled_up()
        assert await past.retention().expire() == 1
        for event in (an_event(tenant, occurred_at=JULY, id=stored[0]), minted(tenant, JULY)):
            with pytest.raises(EventConflict):
                await ledger.append(tenant, event)
        # What was booked as an adjustment is known still, and August is as ever.
        await append_all(ledger, [booked, minted(tenant, AUGUST)])
    async with past.books.database.unit_of_work(read_only=True) as unit:
        assert (await unit.adjustments.totals(tenant, "2024-10"))[0] == 1
    assert past.periods(tenant) == ["2024-08"] * 4


async def test_many_copies_at_once_let_a_month_expire_once(past: Past) -> None:
    await past.closed(*past.tenants)
    await past.rolled_up()
    assert sum(await asyncio.gather(*(past.retention().expire() for _ in range(4)))) == 1
    assert [past.periods(tenant) for tenant in past.tenants] == [["2024-08"] * 3] * 2


@postgres_only
async def test_a_month_in_use_expires_when_nobody_reads_it_and_writers_never_wait_long(past: Past) -> None:
    await past.closed(*past.tenants)
    await past.rolled_up()
    with connected(past.books.url) as reading:
        reading.execute(text("SELECT count(*) FROM usage_events"))
        expiring = asyncio.create_task(past.retention().expire())
        async with past.books.writer() as ledger:
            for number in range(20):
                await ledger.append(past.tenants[0], minted(past.tenants[0], AUGUST + timedelta(seconds=number)))
        assert not expiring.done()
        reading.rollback()
        assert await expiring == 1


@postgres_only
async def test_what_was_cut_off_half_way_is_finished(past: Past) -> None:
    await past.closed(*past.tenants)
    await past.rolled_up()
    with connected(past.books.url) as owner:
        taken = owner.execute(text("SELECT forecourt_expire_usage_month('2024-08')")).scalar_one()
        owner.commit()
        assert taken == PERIOD
        assert owner.execute(text("SELECT to_regclass('usage_expired_2024_07')")).scalar_one() is not None
    assert await past.retention().expire() == 0
    with connected(past.books.url) as owner:
        assert owner.execute(text("SELECT to_regclass('usage_expired_2024_07')")).scalar_one() is None


@postgres_only
async def test_r8_the_database_itself_lets_no_recent_month_expire(past: Past) -> None:
    await past.closed(*past.tenants)
    await past.rolled_up()
    now = datetime.now(UTC)
    with pytest.raises(DBAPIError, match="may not expire yet"):
        async with past.books.database.engine.begin() as connection:
            await connection.execute(text(f"SELECT forecourt_expire_usage_month('{now:%Y-%m}')"))


@sqlite_only
@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (
            "INSERT INTO expired_periods SELECT DISTINCT tenant_id, '2024-08', '2024-10-01' FROM usage_events",
            "not closed",
        ),
        ("DELETE FROM usage_events WHERE period = '2024-07'", "append only"),
        ("UPDATE expired_periods SET period = '2024-08'", "append only"),
        ("DELETE FROM expired_periods", "append only"),
    ],
)
async def test_r8_the_database_itself_lets_no_open_month_expire(past: Past, change: str, refusal: str) -> None:
    await past.closed(*past.tenants)
    await past.rolled_up()
    if "expired_periods S" in change or "FROM expired" in change:
        assert await past.retention().expire() == 1
    with connected(past.books.url) as owner, pytest.raises(DBAPIError, match=refusal):
        owner.execute(text(change))


async def test_an_event_of_the_next_month_by_its_content_keeps_its_month(past: Past) -> None:
    """Minted in the last millisecond of July, served in August."""
    tenant = past.tenants[0]
    edge = datetime(2024, 8, 1, tzinfo=UTC)
    event = an_event(tenant, occurred_at=edge, id=new_id("evt", at_s=edge.timestamp() - 0.001))
    async with past.books.writer() as ledger:
        await ledger.append(tenant, event)
    await past.closed(*past.tenants)
    await past.rolled_up()
    with anyio.fail_after(WITHIN_S):
        while await SqlUsageRollups(past.books.database).fold_of_all_tenants():
            pass
    await past.retention().expire()
    assert event.id in past.books.ids(tenant)
    # On PostgreSQL July stays as a whole with it, for a month longer.
    if past.books.is_postgres:
        assert PERIOD in past.periods(tenant)
