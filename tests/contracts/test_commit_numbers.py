"""R6 after a move: books that were restored into a server that counts its transactions from the start."""

from collections.abc import Iterator

import anyio
import pytest
import sqlalchemy
from sqlalchemy import text

from backend.adapters.db.migrations import DatabaseUnusable, require_current, upgrade
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.ids import TenantId
from backend.domain.usage import LEDGER_START, EventFilter
from tests.contracts.closing import OVER, PERIOD, a_closer, a_subscriber, close, kept
from tests.contracts.ledgers import SERVED_AT, Books, an_event, append_all, columns_of, new_tenant, opened_books
from tests.databases import connected, postgres_database
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0
ELSEWHERE = 5_000_000_000
"""Transactions that the former server had counted: more than this one will during the tests."""


@pytest.fixture
def restored(postgres_url: str) -> Iterator[str]:
    """A database as a restored dump leaves it: rows with the numbers of another server."""
    with postgres_database(postgres_url, is_migrated=True) as url:
        with connected(url) as owner:
            for number in range(3):
                row = columns_of(an_event(TenantId("ten_moved"))) | {"stored_at": SERVED_AT}
                owner.execute(sqlalchemy.insert(UsageEventRow), row)
                dumped = text(
                    "INSERT INTO usage_events SELECT nextval('usage_events_position_seq'), event_id || 'R', tenant_id,"
                    " credential_id, environment, model, model_version, units, cached_units, billable_units, reason,"
                    " plan_id, plan_version, request_id, occurred_at, period, fingerprint, stored_at, :number"
                    " FROM usage_events WHERE event_id = :id"
                )
                owner.execute(dumped, {"number": ELSEWHERE + number, "id": row["event_id"]})
                # Only what came from elsewhere stays.
                owner.execute(text("ALTER TABLE usage_events DISABLE TRIGGER usage_events_append_only"))
                owner.execute(text("DELETE FROM usage_events WHERE event_id = :id"), {"id": row["event_id"]})
                owner.execute(text("ALTER TABLE usage_events ENABLE TRIGGER usage_events_append_only"))
            owner.execute(text("UPDATE usage_checkpoints SET xid = :xid, row = 1000000"), {"xid": ELSEWHERE + 1})
            owner.commit()
        yield url


async def seen(books: Books, tenant: TenantId) -> list[str]:
    reader = SqlUsageReader(books.database, FakeClock(OVER))
    page = await reader.events(tenant, EventFilter(), LEDGER_START, 100)
    return [each.event.id for each in page.events]


async def test_r6_books_of_another_server_are_not_served_before_they_are_migrated(restored: str) -> None:
    async with opened_books(restored) as books:
        assert await seen(books, TenantId("ten_moved")) == [], "hidden until this server had counted as far"
    with pytest.raises(DatabaseUnusable, match="restored into another server: run `forecourt migrate`"):
        require_current(restored)
    upgrade(restored)
    require_current(restored)
    upgrade(restored)
    require_current(restored)


async def test_r6_after_a_move_commit_order_goes_on_and_nothing_is_hidden(restored: str) -> None:
    upgrade(restored)
    clock = FakeClock()
    async with opened_books(restored) as books:
        moved, tenant = TenantId("ten_moved"), await a_subscriber(books, new_tenant())
        with anyio.fail_after(WITHIN_S):
            while len(await seen(books, moved)) < 3:
                await anyio.sleep(0.01)
        async with books.writer(clock=clock) as ledger:
            later, own = an_event(moved), an_event(tenant)
            await append_all(ledger, [later, own])
        # Other tests' transactions may hold the watermark back for a moment.
        with anyio.fail_after(WITHIN_S):
            while len(ids := await seen(books, moved)) < 4:
                await anyio.sleep(0.01)
            assert ids[3:] == [later.id]
            rollups = SqlUsageRollups(books.database)
            # Of those from elsewhere two were rolled up before, as the checkpoint says.
            folded = 0
            while folded < 3:
                folded += await rollups.fold_of_all_tenants()
        assert folded == 3
        assert await rollups.fold_of_all_tenants() == 0
        clock.set(OVER)
        assert (await close(a_closer(books, clock), tenant)).failures == {}
        closed = await kept(books, tenant, PERIOD)
        assert closed is not None
        assert closed.totals.events == 1


async def test_r6_a_server_that_wrote_the_books_itself_counts_as_it_does(postgres_url: str) -> None:
    with postgres_database(postgres_url, is_migrated=True) as url:
        async with opened_books(url) as books:
            tenant = new_tenant()
            async with books.writer() as ledger:
                await append_all(ledger, [an_event(tenant) for _ in range(3)])
        require_current(url)
        upgrade(url)
        with connected(url) as owner:
            assert owner.execute(text("SELECT forecourt_transaction_offset()")).scalar_one() == 0
