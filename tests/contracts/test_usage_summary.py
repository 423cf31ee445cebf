"""Totals of the ledger, in one body over SQLite and PostgreSQL: what they sum up to, and when they are complete."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import (
    COMPLETE_AFTER,
    Bucket,
    GroupBy,
    SummaryLine,
    SummaryQuery,
    UsageEvent,
    bucket_end,
    bucket_start,
)
from tests.contracts.ledgers import SERVED_AT, Books, an_event, append_all, current_transaction, new_tenant
from tests.databases import connected
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

LONG_AGO, LONG_FROM_NOW = datetime(2020, 1, 1, tzinfo=UTC), datetime(2035, 1, 1, tzinfo=UTC)

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
            complete=query.start <= start
            and bucket_end(start, query.bucket) <= query.end
            and bucket_end(start, query.bucket) + COMPLETE_AFTER <= now,
        )
        for (start, group), members in sorted(lines.items())
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    usage=st.lists(st.lists(usages, max_size=10), max_size=4),
    folds=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    asked=st.lists(queries, min_size=1, max_size=4),
)
async def test_a_summary_equals_a_plain_sum_however_much_is_rolled_up(
    books: Books,
    ledger: GroupCommitLedger,
    reader: SqlUsageReader,
    clock: FakeClock,
    usage: list[list[dict[str, Any]]],
    folds: list[int],
    asked: list[SummaryQuery],
) -> None:
    tenant = new_tenant()
    rollups = SqlUsageRollups(books.database, batch_events=7)
    events: list[UsageEvent] = []
    for batch, times in zip(usage, folds, strict=False):
        written = [an_event(tenant, **each) for each in batch]
        events += written
        await append_all(ledger, written)
        for _ in range(times):
            await rollups.fold_of_all_tenants()
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


async def test_a_bucket_that_the_span_cuts_is_not_complete(
    ledger: GroupCommitLedger, reader: SqlUsageReader, clock: FakeClock
) -> None:
    tenant = new_tenant()
    noon = datetime(2026, 7, 15, 12, tzinfo=UTC)
    await append_all(ledger, [an_event(tenant, occurred_at=noon + timedelta(hours=hours)) for hours in (0, 1, 2)])
    clock.set(noon + timedelta(days=3))
    minute = timedelta(minutes=1)
    end = noon + timedelta(hours=3)
    for span, complete in (
        ((noon, end), [True, True, True]),
        ((noon - minute, end + minute), [True, True, True]),
        ((noon + minute, end), [True, True]),
        ((noon, end - minute), [True, True, False]),
    ):
        found = await summary(reader, tenant, bucket=Bucket.HOUR, start=span[0], end=span[1])
        assert [line.complete for line in found] == complete, span
    [first, *_] = await summary(reader, tenant, bucket=Bucket.DAY, start=noon, end=end)
    assert first.complete is False


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
    await append_all(
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
