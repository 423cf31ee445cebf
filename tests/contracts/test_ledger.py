"""The ledger's writer, in one body over SQLite and PostgreSQL (LEDGER.md R1 to R4)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import pytest

from backend.adapters.db.ledger import WORTH_A_COMMIT, WORTH_THE_FILE, EventConflict, GroupCommitLedger
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.domain.errors import MeteringUnavailable
from backend.domain.health import HealthStatus
from backend.domain.usage import UsageEvent
from tests.contracts.ledgers import Books, an_event, columns_of, insert, new_tenant, opened_books
from tests.databases import connected, postgres_cut_off, writers_held_off
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

SHORT_S = 0.3
# Two attempts, each bounded by SHORT_S, and a loaded machine.
BOUND_S = 10.0

# A file does not close its connections.
postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


@pytest.fixture
async def hasty_ledger(database_url: str) -> AsyncIterator[GroupCommitLedger]:
    """A ledger that waits for its database for a moment only."""
    async with opened_books(database_url, timeout_s=SHORT_S) as books, books.writer(within_s=SHORT_S) as ledger:
        yield ledger


def conflicts_of(metrics: PrometheusMetrics) -> float | None:
    return metrics.registry.get_sample_value("forecourt_ledger_conflicts_total")


async def outcomes(ledger: GroupCommitLedger, events: list[UsageEvent]) -> list[BaseException | None]:
    """Append at once, so that several share a commit; return what each caller got."""
    return await asyncio.gather(*(ledger.append(event.tenant_id, event) for event in events), return_exceptions=True)


async def being_written() -> None:
    """Wait until a commit has begun: a ledger looks around the loop once more, whether somebody comes along."""
    for _ in range(4):
        await asyncio.sleep(0)
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("is_prepared", [False, True], ids=["unprepared", "prepared"])
async def test_r2_an_event_is_durable_when_append_returns(
    books: Books, ledger: GroupCommitLedger, *, is_prepared: bool
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    if is_prepared:
        ledger.prepare(event)
        assert books.rows(tenant) == []
    before = datetime.now(UTC)
    await ledger.append(tenant, event)
    [row] = books.rows(tenant)
    occurred_at, stored_at = (_instant(row[name]) for name in ("occurred_at", "stored_at"))
    assert before <= stored_at <= datetime.now(UTC)
    assert {**row, "occurred_at": occurred_at} == row | columns_of(event)


async def test_concurrent_appends_share_few_commits(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(500)]
    assert await outcomes(ledger, events) == [None] * 500
    rows = books.rows(tenant)
    assert sorted(row["event_id"] for row in rows) == sorted(event.id for event in events)
    assert books.commits(rows) <= 3


@postgres_only
async def test_a_writer_takes_over_the_connections_that_another_one_leaves(
    database_url: str, clock: FakeClock, metrics: PrometheusMetrics
) -> None:
    """What the first has prepared on them is not in the second one's way."""
    tenant = new_tenant()
    # Two commits at once, on a connection each.
    crowd = 2 * WORTH_A_COMMIT
    async with opened_books(database_url) as books:
        for _ in range(2):
            async with books.writer(clock=clock, metrics=metrics) as ledger:
                assert await outcomes(ledger, [an_event(tenant) for _ in range(crowd)]) == [None] * crowd
        assert len(books.ids(tenant)) == 2 * crowd
    assert metrics.registry.get_sample_value("forecourt_ledger_failures_total") == 0


async def test_what_arrives_during_a_commit_goes_into_the_next_one(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    with writers_held_off(books.url):
        first = asyncio.create_task(ledger.append(tenant, an_event(tenant)))
        await being_written()
        later = [asyncio.create_task(ledger.append(tenant, an_event(tenant))) for _ in range(20)]
        await anyio.wait_all_tasks_blocked()
    await asyncio.gather(first, *later)
    rows = books.rows(tenant)
    assert (len(rows), books.commits(rows)) == (21, 2)


async def test_a_crowd_is_split_between_two_commits(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    assert await outcomes(ledger, [an_event(tenant) for _ in range(2 * WORTH_A_COMMIT)]) == [None] * 2 * WORTH_A_COMMIT
    rows = books.rows(tenant)
    # A file has one writer at a time.
    assert (len(rows), books.commits(rows)) == (2 * WORTH_A_COMMIT, 2 if books.is_postgres else 1)


@postgres_only
async def test_a_second_commit_runs_beside_the_first_when_it_is_worth_one(
    books: Books, ledger: GroupCommitLedger
) -> None:
    tenant = new_tenant()
    first, *crowd = (an_event(tenant) for _ in range(1 + WORTH_A_COMMIT))
    with connected(books.url) as other:
        # Somebody else has the first event half written: its commit has to wait.
        insert(other, first)
        held = asyncio.create_task(ledger.append(tenant, first))
        await anyio.wait_all_tasks_blocked()
        few = asyncio.create_task(ledger.append(tenant, crowd[0]))
        await anyio.wait_all_tasks_blocked()
        await outcomes(ledger, crowd[1:])
        assert sorted(books.ids(tenant)) == sorted(event.id for event in crowd)
        assert few.done()
        assert not held.done()
        other.rollback()
    await held
    assert len(books.ids(tenant)) == 1 + WORTH_A_COMMIT


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("arriving", "together"), [(5, 5), (3 * WORTH_THE_FILE, WORTH_THE_FILE)], ids=["few", "many"])
async def test_a_commit_to_a_file_takes_along_who_arrives_meanwhile(
    books: Books, ledger: GroupCommitLedger, arriving: int, together: int
) -> None:
    """As long as each turn of the loop brings one more; but not for ever."""
    tenant = new_tenant()
    callers = []
    for _ in range(arriving):
        callers.append(asyncio.create_task(ledger.append(tenant, an_event(tenant))))
        await asyncio.sleep(0)
    await asyncio.gather(*callers)
    first, *_ = rows = books.rows(tenant)
    assert len(rows) == arriving
    assert abs([row["stored_at"] for row in rows].count(first["stored_at"]) - together) <= 2


async def test_an_idle_ledger_commits_each_event_at_once(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    for expected in range(1, 4):
        await ledger.append(tenant, an_event(tenant))
        rows = books.rows(tenant)
        assert (len(rows), books.commits(rows)) == (expected, expected)


async def test_a_batch_is_bounded(books: Books) -> None:
    tenant = new_tenant()
    async with books.writer(max_batch=4) as ledger:
        assert await outcomes(ledger, [an_event(tenant) for _ in range(10)]) == [None] * 10
    rows = books.rows(tenant)
    assert (len(rows), books.commits(rows)) == (10, 3)


async def test_what_waits_is_bounded(books: Books) -> None:
    tenant = new_tenant()
    async with books.writer(max_pending=3) as ledger:
        with writers_held_off(books.url):
            writing = asyncio.create_task(ledger.append(tenant, an_event(tenant)))
            await being_written()
            waiting = [asyncio.create_task(ledger.append(tenant, an_event(tenant))) for _ in range(3)]
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(MeteringUnavailable):
                await ledger.append(tenant, an_event(tenant))
        await asyncio.gather(writing, *waiting)
    assert len(books.rows(tenant)) == 4


async def test_r3_the_same_event_again_changes_nothing(
    books: Books, ledger: GroupCommitLedger, metrics: PrometheusMetrics
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await ledger.append(tenant, event)
    stored = books.rows(tenant)
    await ledger.append(tenant, event)
    assert await outcomes(ledger, [event, event]) == [None, None]
    assert books.rows(tenant) == stored
    assert conflicts_of(metrics) == 0


async def test_r3_the_same_event_from_two_replicas_is_stored_once(
    books: Books, ledger: GroupCommitLedger, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(400)]
    async with books.writer() as replica:
        with writers_held_off(books.url):
            first = asyncio.create_task(outcomes(ledger, events))
            second = asyncio.create_task(outcomes(replica, events[::-1]))
            await anyio.wait_all_tasks_blocked()
        assert await first == await second == [None] * 400
    # At the first attempt: two that took the rows in different orders would deadlock.
    assert caplog.records == []
    assert sorted(books.ids(tenant)) == sorted(event.id for event in events)


async def test_r3_an_id_belongs_to_its_tenant(books: Books, ledger: GroupCommitLedger) -> None:
    tenant, other = new_tenant(), new_tenant()
    event = an_event(tenant)
    same_id = an_event(other, id=event.id, units=7)
    await ledger.append(tenant, event)
    assert await outcomes(ledger, [same_id, event]) == [None, None]
    assert [row["units"] for row in books.rows(tenant) + books.rows(other)] == [2, 7]


async def test_r4_an_id_with_another_content_is_refused_and_changes_nothing(
    books: Books, ledger: GroupCommitLedger, metrics: PrometheusMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await ledger.append(tenant, event)
    stored = books.rows(tenant)
    with caplog.at_level(logging.ERROR), pytest.raises(EventConflict):
        await ledger.append(tenant, replace(event, units=3))
    assert books.rows(tenant) == stored
    assert conflicts_of(metrics) == 1
    assert [record.__dict__["event_id"] for record in caplog.records] == [event.id]


async def test_r4_a_conflict_is_its_callers_alone(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await ledger.append(tenant, event)
    mates = [an_event(tenant) for _ in range(20)]
    batch = [*mates[:10], replace(event, model="wine"), *mates[10:]]
    answers = await outcomes(ledger, batch)
    assert isinstance(answers.pop(10), EventConflict)
    assert answers == [None] * 20
    rows = books.rows(tenant)
    assert sorted(row["event_id"] for row in rows) == sorted(each.id for each in (event, *mates))
    assert {row["model"] for row in rows} == {"iris"}


async def test_r4_contradicting_events_of_one_batch_leave_the_first(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    first, second = await outcomes(ledger, [event, replace(event, units=3)])
    assert first is None
    assert isinstance(second, EventConflict)
    assert [row["units"] for row in books.rows(tenant)] == [2]


async def test_a_caller_who_leaves_does_not_take_the_event_along(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(3)]
    with writers_held_off(books.url):
        callers = []
        # The first is being written, the others wait for their turn.
        for event in events:
            callers.append(asyncio.create_task(ledger.append(tenant, event)))
            await anyio.wait_all_tasks_blocked()
        for caller in callers:
            caller.cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
        assert books.rows(tenant) == []
    # One that comes later is written later.
    await ledger.append(tenant, an_event(tenant))
    assert sorted(books.ids(tenant)[:3]) == sorted(event.id for event in events)


async def test_the_wait_can_be_used_by_whoever_still_waits(books: Books, ledger: GroupCommitLedger) -> None:
    tenant, used = new_tenant(), list[int]()
    with writers_held_off(books.url):
        callers = []
        # The first is being written, the others wait for their turn.
        for number in range(3):
            written = ledger.append(tenant, an_event(tenant), partial(used.append, number))
            callers.append(asyncio.create_task(written))
            await being_written()
        assert used == [0]
        assert not callers[0].done()
        callers[1].cancel()
    await asyncio.gather(callers[0], callers[2])
    assert used == [0, 2]
    assert len(books.ids(tenant)) == 3


async def test_closing_writes_what_is_pending(books: Books) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(30)]
    ledger = GroupCommitLedger(books.database, metrics=NullMetrics(), max_batch=10)
    ledger.start()
    with writers_held_off(books.url):
        callers = [asyncio.create_task(ledger.append(tenant, event)) for event in events]
        await anyio.wait_all_tasks_blocked()
        closing = asyncio.create_task(ledger.aclose())
        await anyio.wait_all_tasks_blocked()
        assert not closing.done()
    await closing
    assert sorted(books.ids(tenant)) == sorted(event.id for event in events)
    assert await asyncio.gather(*callers) == [None] * 30


async def test_a_closed_ledger_takes_nothing(books: Books) -> None:
    tenant = new_tenant()
    ledger = GroupCommitLedger(books.database, metrics=NullMetrics())
    with pytest.raises(MeteringUnavailable):
        await ledger.append(tenant, an_event(tenant))
    ledger.start()
    await ledger.aclose()
    with pytest.raises(MeteringUnavailable):
        await ledger.append(tenant, an_event(tenant))
    assert books.rows(tenant) == []


async def test_an_event_is_booked_on_its_own_tenant_only(books: Books, ledger: GroupCommitLedger) -> None:
    tenant, other = new_tenant(), new_tenant()
    with pytest.raises(ValueError, match="own tenant"):
        await ledger.append(other, an_event(tenant))
    assert books.rows(tenant) + books.rows(other) == []


async def test_a_database_that_does_not_take_it_is_unavailable_within_a_bound(
    books: Books, hasty_ledger: GroupCommitLedger
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    started_s = time.monotonic()
    with writers_held_off(books.url):
        refused = await outcomes(hasty_ledger, [event, an_event(tenant)])
        took_s = time.monotonic() - started_s
        [health] = await hasty_ledger.check()
    assert [type(each) for each in refused] == [MeteringUnavailable] * 2
    assert SHORT_S <= took_s < BOUND_S
    assert health.status is HealthStatus.DOWN
    await recovers(books, hasty_ledger, event)


async def test_an_event_that_no_database_takes_does_not_end_the_ledger(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    half_a_character = an_event(tenant, request_id="\ud800")
    with anyio.fail_after(BOUND_S), pytest.raises(MeteringUnavailable):
        await ledger.append(tenant, half_a_character)
    with anyio.fail_after(BOUND_S):
        await recovers(books, ledger, an_event(tenant))


@postgres_only
async def test_a_database_that_is_gone_is_unavailable_until_it_is_back(
    books: Books, hasty_ledger: GroupCommitLedger
) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await hasty_ledger.append(tenant, an_event(tenant))
    with postgres_cut_off(books.url):
        for _ in range(2):
            started_s = time.monotonic()
            with pytest.raises(MeteringUnavailable):
                await hasty_ledger.append(tenant, event)
            assert time.monotonic() - started_s < BOUND_S
    await recovers(books, hasty_ledger, event)


@postgres_only
async def test_a_connection_that_was_cut_is_not_the_callers_problem(books: Books, ledger: GroupCommitLedger) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(2)]
    await ledger.append(tenant, events[0])
    with postgres_cut_off(books.url):
        pass
    await ledger.append(tenant, events[1])
    assert books.ids(tenant) == [event.id for event in events]


async def recovers(books: Books, ledger: GroupCommitLedger, event: UsageEvent) -> None:
    """Append the refused event again, now that the database is back and the ledger finds out by itself."""
    with anyio.fail_after(BOUND_S):
        while (await outcomes(ledger, [event])) != [None]:
            await anyio.sleep(0.05)
    [health] = await ledger.check()
    assert health.status is HealthStatus.OK
    assert books.ids(event.tenant_id).count(event.id) == 1


def _instant(value: Any) -> datetime:
    """Read an instant past the application's own types: SQLite keeps text without a zone."""
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant
