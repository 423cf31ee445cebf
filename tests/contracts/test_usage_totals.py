"""What the worker's jobs read of the ledger: on SQLite and on PostgreSQL."""

from datetime import UTC, datetime

import pytest

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.usage_totals import SqlUsageTotals
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.tenants import Tenant, TenantStatus
from backend.domain.usage import LEDGER_START, LedgerPosition, UsageTotal
from tests.contracts.ledgers import Books, an_event, append_all, insert, new_tenant
from tests.databases import connected

pytestmark = pytest.mark.anyio

AUGUST = datetime(2026, 8, 1, tzinfo=UTC)


@pytest.fixture
def totals(books: Books) -> SqlUsageTotals:
    return SqlUsageTotals(books.database)


async def a_tenant(books: Books) -> TenantId:
    tenant_id = TenantId(f"{new_tenant()}_active")
    tenant = Tenant(
        id=tenant_id,
        slug=tenant_id.replace("_", "-"),
        name="a tenant",
        status=TenantStatus.ACTIVE,
        version=1,
        created_at=AUGUST,
    )
    async with books.database.unit_of_work() as unit:
        await unit.tenants.add(tenant)
    return tenant_id


async def test_a_period_is_summed_by_environment_and_credential(
    books: Books, ledger: GroupCommitLedger, totals: SqlUsageTotals
) -> None:
    mine, other = new_tenant(), new_tenant()
    test = an_event(mine, environment=Environment.TEST, credential_id="key_t", units=7, billable_units=0)
    events = [
        an_event(mine, units=2, billable_units=1),
        an_event(mine, units=3, billable_units=3),
        an_event(mine, credential_id="key_b", units=5, billable_units=5),
        test,
        an_event(mine, occurred_at=AUGUST, units=100),
        an_event(other, units=1000),
    ]
    await append_all(ledger, events)
    live, sandbox = Environment.LIVE, Environment.TEST
    assert await totals.of_period(mine, "2026-07") == (
        UsageTotal(environment=live, credential_id="key_a", units=5, billable_units=4),
        UsageTotal(environment=live, credential_id="key_b", units=5, billable_units=5),
        UsageTotal(environment=sandbox, credential_id="key_t", units=7, billable_units=0),
    )
    assert await totals.of_period(mine, "2026-06") == ()


async def seen_past(totals: SqlUsageTotals, tenant_id: TenantId, after: LedgerPosition) -> LedgerPosition:
    """Return the watermark once a tenant's events lie below it."""
    while True:
        # Other tests' open transactions may hold the watermark back for a moment.
        active, watermark = await totals.active_of_all_tenants(after)
        if tenant_id in active:
            return watermark


async def test_who_used_something_is_active_once(
    books: Books, ledger: GroupCommitLedger, totals: SqlUsageTotals
) -> None:
    mine, idle = await a_tenant(books), await a_tenant(books)
    await ledger.append(mine, an_event(mine))
    watermark = await seen_past(totals, mine, LEDGER_START)
    active, watermark = await totals.active_of_all_tenants(watermark)
    assert not {mine, idle} & active
    await ledger.append(mine, an_event(mine))
    assert await seen_past(totals, mine, watermark) >= watermark


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True, scope="module")
async def test_r6_an_event_that_commits_late_is_seen(database_url: str, books: Books, totals: SqlUsageTotals) -> None:
    """A transaction that began before a look and commits after it lies past the watermark that the look returned."""
    late, early = await a_tenant(books), await a_tenant(books)
    with connected(books.url) as first, connected(books.url) as second:
        insert(first, an_event(late))
        insert(second, an_event(early))
        second.commit()
        active, watermark = await totals.active_of_all_tenants(LEDGER_START)
        assert late not in active
        first.commit()
    await seen_past(totals, late, watermark)
    await seen_past(totals, early, watermark)
