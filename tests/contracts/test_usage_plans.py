"""The ledger at size on PostgreSQL: whatever is served reads what it answers with, and not the ledger."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from backend.adapters.db.period_totals import SqlPeriodTotals
from backend.adapters.db.rollups import IN_ORDER, SqlUsageRollups
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.db.usage_totals import SqlUsageTotals
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import LEDGER_START, Bucket, EventFilter, GroupBy, LedgerPosition, SummaryQuery
from tests.contracts.ledgers import Books, opened_books
from tests.databases import connected, postgres_database
from tests.fakes import FakeClock
from tests.plans import explained, nodes, rows_read, taken_down

pytestmark = pytest.mark.anyio

EVENTS = 200_000
MONTHS = ("2026-03", "2026-04", "2026-05", "2026-06", "2026-07")
TENANT = TenantId("ten_0")
NOW = datetime(2026, 7, 29, tzinfo=UTC)
STRAYS = 20
"""Events of each period that each month holds beside its own."""
TAIL = 1_000
"""Events that are not rolled up yet."""
MOST_ROWS = 3 * TAIL
"""More than any answer below consists of, far less than a month, or a tenant, has."""

FILL = """
INSERT INTO usage_events (event_id, tenant_id, credential_id, environment, model, model_version, units, cached_units,
    billable_units, reason, plan_id, plan_version, request_id, occurred_at, period, fingerprint, stored_at)
SELECT public.forecourt_usage_bound(CAST(:start AS date)) || lpad(n::text, 16, '0'), 'ten_' || n % 4, 'key_' || n % 3,
    'live', 'iris', '1', 3, 1, 2, 'live', 'pln_1', 1, 'req_' || n,
    CAST(:start AS timestamptz) + (n % :count) * (interval '28 days' / :count), :period, decode(md5(n::text), 'hex'),
    now()
FROM generate_series(CAST(:first AS integer), :first + :count - 1) AS n
"""
ROLLED_UP = """
INSERT INTO usage_rollups SELECT tenant_id, date_trunc('hour', occurred_at, 'UTC'), period, environment, credential_id,
    model, model_version, plan_id, plan_version, count(*), sum(units), sum(cached_units), sum(billable_units)
FROM usage_events WHERE position <= :last GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    """Five months of four tenants."""
    with postgres_database(postgres_url, is_migrated=True) as url:
        with connected(url) as owner:
            for month in MONTHS:
                start = f"{month}-01T00:00:00Z"
                owner.execute(text("SELECT public.forecourt_make_usage_month(CAST(:start AS date))"), {"start": start})
                count = EVENTS // len(MONTHS)
                owner.execute(text(FILL), {"start": start, "period": month, "first": 1, "count": count})
                for stray in MONTHS:
                    values = {"start": start, "period": stray, "first": EVENTS + int(stray[-2:]) * STRAYS}
                    owner.execute(text(FILL), values | {"count": STRAYS})
                owner.commit()
            last = owner.execute(text("SELECT max(position) FROM usage_events")).scalar_one() - TAIL
            owner.execute(text(ROLLED_UP), {"last": last})
            checkpoint = "UPDATE usage_checkpoints SET (xid, row) = (SELECT commit_xid, position FROM usage_events "
            owner.execute(text(checkpoint + "WHERE position = :last)"), {"last": last})
            owner.commit()
            owner.execute(text("ANALYZE usage_events, usage_rollups"))
            owner.commit()
        yield url


Question = Callable[[Books], Awaitable[object]]


def reader(books: Books) -> SqlUsageReader:
    return SqlUsageReader(books.database, FakeClock(NOW))


def events(wanted: EventFilter, after: LedgerPosition = LEDGER_START, *, of_all: bool = False) -> Question:
    async def ask(books: Books) -> object:
        if of_all:
            return await reader(books).events_of_all_tenants(wanted, after, 100)
        return await reader(books).events(TENANT, wanted, after, 100)

    return ask


def summary(start: datetime, end: datetime, bucket: Bucket) -> Question:
    query = SummaryQuery(start=start, end=end, bucket=bucket, group_by=tuple(GroupBy))
    return lambda books: reader(books).summary(TENANT, query)


MARCH, JULY = datetime(2026, 3, 5, 12, tzinfo=UTC), datetime(2026, 7, 2, 12, tzinfo=UTC)
FAR = LedgerPosition(2**40, 0)
QUESTIONS: dict[str, Question] = {
    "events": events(EventFilter()),
    "events-of-a-period": events(EventFilter(period="2026-05")),
    "events-of-a-key": events(EventFilter(credential_id="key_1")),
    "events-of-a-model": events(EventFilter(model="iris")),
    "events-of-everything": events(EventFilter(period="2026-07", credential_id="key_2", model="iris")),
    "events-at-the-end": events(EventFilter(), FAR),
    "events-of-all-tenants": events(EventFilter(), of_all=True),
    "events-of-a-period-of-all-tenants": events(EventFilter(period="2026-07"), of_all=True),
    "events-of-no-period-of-all-tenants": events(EventFilter(period="2031-01"), of_all=True),
    "summary-of-months": summary(MARCH.replace(day=1, hour=0), JULY, Bucket.MONTH),
    "summary-of-days-from-within-an-hour": summary(
        MARCH + timedelta(minutes=30), JULY + timedelta(minutes=20), Bucket.DAY
    ),
    "summary-within-an-hour": summary(JULY, JULY + timedelta(minutes=20), Bucket.HOUR),
    "statement": lambda books: reader(books).plan_usage(TENANT, "2026-07"),
    "statement-of-long-ago": lambda books: reader(books).plan_usage(TENANT, "2026-03"),
    "bounds": lambda books: reader(books).bounds(TENANT, "2026-05"),
    "first-period": lambda books: reader(books).first_period(TENANT),
    "one-event": lambda books: reader(books).event(TENANT, "evt_01KV50000000000000000000012345"),
    "one-event-of-all-tenants": lambda books: reader(books).event_of_all_tenants("evt_01KV5000000000000000012345"),
    "reconciliation": lambda books: reader(books).units_in_period(TENANT, Environment.LIVE, "2026-06", None),
    "quota-of-a-key": lambda books: reader(books).units_in_period(TENANT, Environment.LIVE, "2026-07", "key_1"),
    "push": lambda books: SqlPeriodTotals(books.database).of_period(TENANT, "2026-07"),
    "alerts": lambda books: SqlUsageTotals(books.database).of_period(TENANT, "2026-07"),
    "active": lambda books: SqlUsageTotals(books.database).active_of_all_tenants(LEDGER_START),
    "active-since": lambda books: SqlUsageTotals(books.database).active_of_all_tenants(FAR),
    "roll-up": lambda books: SqlUsageRollups(books.database, batch_events=500).fold_of_all_tenants(),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_what_is_served_reads_no_more_of_the_ledger_than_it_answers_with(url: str, question: str) -> None:
    async with opened_books(url) as books:
        with taken_down(books.database.engine, "usage_events") as sent:
            await QUESTIONS[question](books)
    assert sent
    with connected(url) as owner:
        for each in sent:
            plan = explained(owner, each)["Plan"]
            for node in nodes(plan):
                if "usage_events" not in node.get("Relation Name", ""):
                    continue
                assert node["Node Type"] != "Seq Scan" or rows_read(node) == 0, (node, each.statement)
                assert rows_read(node) <= MOST_ROWS, (node, each.statement)


async def test_a_batch_of_the_roll_up_reads_itself_and_not_all_that_waits(postgres_url: str) -> None:
    """Also of events that were written a moment ago, which the planner knows nothing of."""
    batch, waiting = 5_000, 40_000
    with postgres_database(postgres_url, is_migrated=True) as url, connected(url) as owner:
        start = "2026-07-01T00:00:00Z"
        owner.execute(text("SELECT public.forecourt_make_usage_month(CAST(:start AS date))"), {"start": start})
        owner.commit()
        owner.execute(text(FILL), {"start": start, "period": "2026-07", "first": 1, "count": waiting})
        owner.commit()
        async with opened_books(url) as books:
            with taken_down(books.database.engine, "usage_events") as sent:
                assert await SqlUsageRollups(books.database, batch_events=batch).fold_of_all_tenants() == batch
        for each in sent:
            for node in nodes(explained(owner, each, IN_ORDER)["Plan"]):
                assert rows_read(node) <= batch, (node, each.statement)
        assert len(sent) == 3
