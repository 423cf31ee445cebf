"""What was answered while the database was away is no part of the books yet, and nobody says that they are complete."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from redis.asyncio import Redis

from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.db.event_store import SqlEventStore
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.redis import ScriptRunner, keys, open_line
from backend.adapters.redis.line import Line
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.adapters.redis.waiting_usage import RedisWaitingUsage
from backend.adapters.usage_spill import SpillDrain
from backend.domain.audit import OPERATOR
from backend.domain.billing_periods import PeriodState
from backend.domain.callers import ActorKind, Caller
from backend.domain.errors import MeteringUnavailable
from backend.domain.ids import TenantId
from backend.domain.usage import Bucket
from backend.services.ports import WaitingUsage
from backend.services.usage import UsageService
from tests.api.conftest import SECRETS
from tests.contracts.closing import OVER, PERIOD, a_closer, a_subscriber, close, kept, state
from tests.contracts.ledgers import PATIENT_S, SERVED_AT, Books, an_event, new_tenant, opened_books
from tests.databases import postgres_database
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def migrated(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url, is_migrated=True) as url:
        yield url


@pytest.fixture
async def books(migrated: str) -> AsyncIterator[Books]:
    async with opened_books(migrated) as books:
        yield books


@pytest.fixture
def spill(redis_line: Line) -> RedisUsageSpill:
    return RedisUsageSpill(redis_line, redis_line, limit=100, metrics=NullMetrics())


@pytest.fixture
def waiting(redis_line: Line) -> RedisWaitingUsage:
    return RedisWaitingUsage(ScriptRunner(redis_line))


@pytest.fixture
def drain(books: Books, spill: RedisUsageSpill) -> SpillDrain:
    return SpillDrain(
        spill, SqlEventStore(books.database, within_s=PATIENT_S, metrics=NullMetrics()), metrics=NullMetrics()
    )


@pytest.fixture
async def nobody() -> AsyncIterator[RedisWaitingUsage]:
    """A Redis that is down."""
    async with aclosing(open_line("redis://127.0.0.1:1", 0.5)) as line:
        yield RedisWaitingUsage(ScriptRunner(line))


async def complete(books: Books, waiting: WaitingUsage, tenant: TenantId, clock: FakeClock) -> dict[int, bool]:
    """Return which hours of the day of these tests a summary calls complete."""
    service = UsageService(
        reader=SqlUsageReader(books.database, clock),
        waiting=waiting,
        cursors=HmacCursors(SECRETS["secret_key"]),
        clock=clock,
    )
    caller = Caller(kind=ActorKind.API_KEY, credential_id="key_a", tenant_id=tenant, scopes=frozenset())
    _, lines = await service.summary(caller, start=None, end=None, bucket=Bucket.HOUR, group_by=())
    return {line.start.hour: line.complete for line in lines}


async def becomes(
    expected: dict[int, bool], books: Books, waiting: WaitingUsage, tenant: TenantId, clock: FakeClock
) -> None:
    """Wait until these are complete: other transactions of this server may hold the watermark back for a moment."""
    with anyio.fail_after(PATIENT_S):
        while await complete(books, waiting, tenant, clock) != expected:
            await anyio.sleep(0.01)


async def test_r5_no_bucket_is_complete_to_which_waiting_usage_may_belong(
    books: Books, waiting: RedisWaitingUsage, spill: RedisUsageSpill, drain: SpillDrain, clock: FakeClock
) -> None:
    tenant, other = new_tenant(), new_tenant()
    # 10, 11, 12 and 13 o'clock; what waits is another's, for the order of the spill is all that is known.
    for hours in (-2, -1, 0, 1):
        await spill.put([an_event(tenant, occurred_at=SERVED_AT + hours * HOUR)])
    await drain.run()
    clock.set(SERVED_AT + 6 * HOUR)
    await becomes({10: True, 11: True, 12: True, 13: True}, books, waiting, tenant, clock)
    await spill.put([an_event(other), an_event(tenant, occurred_at=SERVED_AT + HOUR)])
    assert await waiting.oldest_at() == SERVED_AT
    await becomes({10: True, 11: True, 12: False, 13: False}, books, waiting, tenant, clock)
    await drain.run()
    assert await waiting.oldest_at() is None
    await becomes({10: True, 11: True, 12: True, 13: True}, books, waiting, tenant, clock)


async def test_r5_nothing_is_complete_while_nobody_knows_what_waits(
    books: Books, nobody: RedisWaitingUsage, spill: RedisUsageSpill, drain: SpillDrain, clock: FakeClock
) -> None:
    tenant = new_tenant()
    await spill.put([an_event(tenant)])
    await drain.run()
    clock.set(SERVED_AT + 6 * HOUR)
    with pytest.raises(MeteringUnavailable):
        await nobody.oldest_at()
    assert await complete(books, nobody, tenant, clock) == {12: False}


async def test_an_entry_that_cannot_be_read_waits_too(redis_client: Redis, waiting: RedisWaitingUsage) -> None:
    await redis_client.xadd(keys.usage_spill(), {"event": b"{not json"}, id="1784118615123-0")
    await redis_client.xadd(keys.usage_spill(), {"other": b"field"})
    assert await waiting.oldest_at() == datetime(2026, 7, 15, 12, 30, 15, 123000, tzinfo=UTC)


async def test_r7_a_month_does_not_close_before_what_waits_is_booked(
    books: Books, waiting: RedisWaitingUsage, spill: RedisUsageSpill, drain: SpillDrain, clock: FakeClock
) -> None:
    tenant = await a_subscriber(books, new_tenant())
    await spill.put([an_event(tenant)])
    clock.set(OVER)
    closer = a_closer(books, clock, waiting=waiting)
    for accepted in (None, "it is late"):
        report = await closer.close(OPERATOR, PERIOD, only=tenant, accepted=accepted)
        assert [error.code for error in report.failures.values()] == ["watermark-behind"]
        assert await state(books, tenant) is PeriodState.OPEN
    await drain.run()
    await close(closer, tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    assert closed.totals.events == 1


async def test_r7_a_month_closes_while_usage_of_a_later_one_waits(
    books: Books, waiting: RedisWaitingUsage, spill: RedisUsageSpill, clock: FakeClock
) -> None:
    tenant = await a_subscriber(books, new_tenant())
    await spill.put([an_event(tenant, occurred_at=OVER)])
    clock.set(OVER)
    assert (await close(a_closer(books, clock, waiting=waiting), tenant)).state is PeriodState.CLOSED


async def test_r7_a_month_closes_while_nobody_knows_what_waits_only_when_that_is_accepted(
    books: Books, nobody: RedisWaitingUsage, clock: FakeClock
) -> None:
    tenant = await a_subscriber(books, new_tenant())
    clock.set(OVER)
    closer = a_closer(books, clock, waiting=nobody)
    report = await close(closer, tenant)
    assert [error.code for error in report.failures.values()] == ["metering-unavailable"]
    assert (await close(closer, tenant, accepted="Redis is gone for good")).state is PeriodState.CLOSED
