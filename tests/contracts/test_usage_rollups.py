"""Roll-ups, in one body over SQLite and PostgreSQL: each event once, in many copies and through crashes."""

import asyncio

import pytest
from sqlalchemy import text

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import PlanUsage
from tests.contracts.ledgers import SERVED_AT, Books, an_event, append_all, insert, new_tenant, opened_books
from tests.databases import connected

pytestmark = pytest.mark.anyio

PERIOD = "2026-07"
WITHIN_S = 30.0
postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def rolled_up(books: Books, tenant: TenantId) -> tuple[int, int]:
    """Return the events and units in the roll-ups of a tenant, as another program sees them."""
    query = text(
        "SELECT coalesce(sum(events), 0), coalesce(sum(units), 0) FROM usage_rollups WHERE tenant_id = :tenant"
    )
    with connected(books.url) as connection:
        events, units = connection.execute(query, {"tenant": tenant}).one()
    return int(events), int(units)


async def fold_all(rollups: SqlUsageRollups, books: Books, tenant: TenantId) -> None:
    """Fold until the tenant's events are in; other tests' transactions may hold the watermark back for a moment."""
    async with asyncio.timeout(WITHIN_S):
        while rolled_up(books, tenant)[0] < len(books.ids(tenant)):
            if not await rollups.fold_of_all_tenants():
                await asyncio.sleep(0.01)


async def test_everything_is_folded_once(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    rollups = SqlUsageRollups(books.database, batch_events=3)
    for count in (5, 4, 1):
        await append_all(ledger, [an_event(tenant, units=3, model=f"m{number % 2}") for number in range(count)])
        await fold_all(rollups, books, tenant)
    assert rolled_up(books, tenant) == (10, 30)
    assert await rollups.fold_of_all_tenants() >= 0
    assert rolled_up(books, tenant) == (10, 30)


async def test_many_copies_fold_each_event_once(database_url: str, books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    done = asyncio.Event()

    async def copy() -> None:
        async with opened_books(database_url) as own:
            rollups = SqlUsageRollups(own.database, batch_events=4)
            while not done.is_set():
                await rollups.fold_of_all_tenants()
                await asyncio.sleep(0)

    copies = [asyncio.create_task(copy()) for _ in range(4)]
    for _ in range(20):
        await append_all(ledger, [an_event(tenant, units=2) for _ in range(5)])
    async with asyncio.timeout(WITHIN_S):
        while rolled_up(books, tenant)[0] < 100:
            await asyncio.sleep(0.01)
    done.set()
    await asyncio.gather(*copies)
    assert rolled_up(books, tenant) == (100, 200)


@postgres_only
async def test_a_fold_that_is_cut_off_leaves_sums_and_checkpoint_as_they_were(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    await append_all(ledger, [an_event(tenant) for _ in range(20)])
    rollups = SqlUsageRollups(books.database)
    # Cut off after so many turns of the loop, wherever the fold has got to by then.
    for turns in range(0, 40, 5):
        fold = asyncio.ensure_future(rollups.fold_of_all_tenants())
        for _ in range(turns):
            await asyncio.sleep(0)
        fold.cancel()
        await asyncio.gather(fold, return_exceptions=True)
        assert rolled_up(books, tenant)[0] in {0, 20}
        assert await reader.units_in_period(tenant, Environment.LIVE, PERIOD, None) == 40
    await fold_all(rollups, books, tenant)
    assert rolled_up(books, tenant) == (20, 40)


@postgres_only
async def test_r6_a_transaction_that_commits_late_is_folded_all_the_same(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    rollups = SqlUsageRollups(books.database)
    with connected(books.url) as late:
        insert(late, an_event(tenant, units=7))
        await append_all(ledger, [an_event(tenant, units=1) for _ in range(3)])
        await rollups.fold_of_all_tenants()
        # What was committed after it waits below it.
        assert rolled_up(books, tenant) == (0, 0)
        assert await reader.units_in_period(tenant, Environment.LIVE, PERIOD, None) == 3
        late.commit()
    assert await reader.units_in_period(tenant, Environment.LIVE, PERIOD, None) == 10
    await fold_all(rollups, books, tenant)
    assert rolled_up(books, tenant) == (4, 10)


async def test_a_periods_usage_is_told_apart_by_plan_version(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader
) -> None:
    tenant = new_tenant()
    rollups = SqlUsageRollups(books.database)

    def usage(plan_id: str, version: int, events: int) -> PlanUsage:
        return PlanUsage(plan_id=plan_id, plan_version=version, events=events, units=2 * events, billable_units=events)

    for expected in ((usage("pln_1", 1, 2), usage("pln_2", 2, 1)), (usage("pln_1", 1, 4), usage("pln_2", 2, 2))):
        await append_all(
            ledger,
            [
                an_event(tenant),
                an_event(tenant, environment=Environment.TEST),
                an_event(tenant, plan_id="pln_2", plan_version=2),
                an_event(tenant, occurred_at=SERVED_AT.replace(month=8)),
            ],
        )
        assert await reader.plan_usage(tenant, PERIOD) == expected
        await fold_all(rollups, books, tenant)
        assert await reader.plan_usage(tenant, PERIOD) == expected
