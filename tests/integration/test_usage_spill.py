"""Usage in Redis on its way to the ledger: refused in time, drained once by however many, and never lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from backend.adapters.db.event_store import SqlEventStore
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis import keys, open_line
from backend.adapters.redis.line import Line
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.adapters.usage_spill import SpillDrain
from backend.domain.errors import MeteringUnavailable
from tests.contracts.ledgers import PATIENT_S, Books, an_event, new_tenant, opened_books
from tests.databases import postgres_cut_off, postgres_database
from tests.redis_client import connect
from tests.server_process import Server
from tests.servers import private_redis_server

pytestmark = pytest.mark.anyio

ROOM = 2000


@pytest.fixture
async def books(postgres_url: str) -> AsyncIterator[Books]:
    with postgres_database(postgres_url, is_migrated=True) as url:
        async with opened_books(url) as books:
            yield books


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Server]:
    """A server of these tests alone: any other application on it would drain it too."""
    with private_redis_server() as server:
        yield server


@pytest.fixture
async def redis_client(own_redis: Server) -> AsyncIterator[Redis]:
    client = connect(own_redis.url, timeout_s=PATIENT_S)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics()


@pytest.fixture
async def redis_line(own_redis: Server, redis_client: Redis) -> AsyncIterator[Line]:
    """The product's way to the emptied server."""
    line = open_line(own_redis.url, PATIENT_S)
    yield line
    await line.aclose()


@pytest.fixture
def spill(redis_line: Line) -> RedisUsageSpill:
    return RedisUsageSpill(redis_line, redis_line, limit=ROOM, metrics=NullMetrics())


@pytest.fixture
async def event_store(books: Books, metrics: PrometheusMetrics) -> AsyncIterator[SqlEventStore]:
    store = SqlEventStore(books.database, within_s=PATIENT_S, metrics=metrics)
    yield store
    await store.aclose()


@pytest.fixture
def drain(event_store: SqlEventStore, spill: RedisUsageSpill, metrics: PrometheusMetrics) -> SpillDrain:
    return SpillDrain(spill, event_store, metrics=metrics)


async def test_what_was_spilled_is_booked_as_it_was(books: Books, spill: RedisUsageSpill, drain: SpillDrain) -> None:
    tenant = new_tenant()
    events = [an_event(tenant, request_id=f"ünï-{number}") for number in range(3)]
    assert await spill.put(events) == 3
    assert [entry.event for entry in await spill.oldest(10)] == events
    assert await drain.run() == 3
    assert await spill.waiting() == 0
    prints = {bytes(row["fingerprint"]) for row in books.rows(tenant)}
    assert prints == {event.fingerprint() for event in events}
    assert await drain.run() == 0


async def test_r3_what_is_in_the_ledger_already_is_drained_once(
    books: Books, spill: RedisUsageSpill, drain: SpillDrain, event_store: SqlEventStore, metrics: PrometheusMetrics
) -> None:
    """A commit whose answer was lost: the event is in both places."""
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(4)]
    await event_store.write(events[:2])
    await spill.put(events)
    assert await drain.run() == 4
    assert sorted(books.ids(tenant)) == sorted(event.id for event in events)


async def test_r3_many_drains_at_once_book_each_event_once(
    books: Books, spill: RedisUsageSpill, event_store: SqlEventStore, metrics: PrometheusMetrics
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(1200)]
    assert await spill.put(events) == 1200
    drains = [SpillDrain(spill, event_store, metrics=metrics) for _ in range(4)]
    await asyncio.gather(*(drain.run() for drain in drains))
    assert sorted(books.ids(tenant)) == sorted(event.id for event in events)
    assert await spill.waiting() == 0


async def test_what_does_not_fit_is_refused_and_nothing_is_dropped(redis_line: Line) -> None:
    spill = RedisUsageSpill(redis_line, redis_line, limit=5, metrics=NullMetrics())
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(8)]
    assert await spill.put(events[:3]) == 3
    assert await spill.put(events[3:]) == 2
    assert await spill.put(events[5:]) == 0
    assert [entry.event for entry in await spill.oldest(10)] == events[:5]


async def test_a_drain_that_dies_leaves_everything_where_it_was(
    books: Books, spill: RedisUsageSpill, drain: SpillDrain
) -> None:
    tenant = new_tenant()
    events = [an_event(tenant) for _ in range(10)]
    await spill.put(events)
    with postgres_cut_off(books.url), pytest.raises(MeteringUnavailable):
        await drain.run()
    assert await spill.waiting() == 10
    assert await drain.run() == 10
    assert len(books.rows(tenant)) == 10


async def test_r4_entries_that_the_ledger_never_takes_are_set_aside_and_counted(
    books: Books,
    spill: RedisUsageSpill,
    drain: SpillDrain,
    event_store: SqlEventStore,
    metrics: PrometheusMetrics,
    redis_client: Redis,
) -> None:
    tenant = new_tenant()
    booked, good = an_event(tenant), an_event(tenant)
    await event_store.write([booked])
    unfit = an_event(tenant, units=2**70)
    await spill.put([replace(booked, units=9), unfit])
    await redis_client.xadd(keys.usage_spill(), {"event": b"{not json"})
    await redis_client.xadd(keys.usage_spill(), {"other": b"field"})
    entries: Any = await redis_client.xrange(keys.usage_spill(), count=1)
    [(_, fields)] = entries
    entry = json.loads(fields[b"event"])
    entry["event"]["units"] = 10**6
    await redis_client.xadd(keys.usage_spill(), {"event": json.dumps(entry)})
    await spill.put([good])
    assert await drain.run() == 1
    assert await spill.waiting() == 0
    assert await redis_client.xlen(keys.usage_set_aside()) == 5
    assert metrics.registry.get_sample_value("forecourt_spill_set_aside_total") == 5
    assert [row["units"] for row in books.rows(tenant)] == [2, 2]


async def test_a_full_redis_refuses_and_keeps_what_it_has(redis_client: Redis, spill: RedisUsageSpill) -> None:
    tenant = new_tenant()
    event = an_event(tenant)
    await spill.put([event])
    await redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(MeteringUnavailable):
            await spill.put([an_event(tenant)])
    finally:
        await redis_client.config_set("maxmemory", "0")
    assert [entry.event for entry in await spill.oldest(10)] == [event]
