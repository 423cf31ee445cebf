"""Quota counters against the ledger: what requests under way explain stays, the rest is repaired once (R10, L4)."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis import RedisAdmission, ScriptRunner, open_line
from backend.adapters.redis.line import Line
from backend.adapters.redis.quota_reconciliation import RedisQuotaReconciliation
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.domain.admission import Lease
from backend.domain.api_keys import Environment
from backend.domain.clock import SystemClock
from backend.domain.errors import EnforcementUnavailable, StoreUnavailable
from backend.domain.limits import QuotaRule
from tests.contracts.asking import KEY, TENANT, Desk, ask, key_quota, lease_of, tenant_quota
from tests.contracts.ledgers import an_event
from tests.fakes import FakeClock, FakeHistory
from tests.server_process import Server
from tests.servers import private_redis_server

pytestmark = pytest.mark.anyio

PATIENT_S = 10.0
QUOTAS = (tenant_quota(1000), key_quota(500))


@dataclass
class Books:
    """Admission on Redis, a ledger's sums, and what compares the two."""

    desk: Desk
    spill: RedisUsageSpill
    metrics: PrometheusMetrics
    reconciliation: RedisQuotaReconciliation

    async def lease(self, cost: int, environment: Environment = Environment.LIVE) -> Lease:
        return lease_of(await self.desk.admit(ask(cost=cost, quotas=QUOTAS, environment=environment)))

    def book(self, lease: Lease) -> None:
        self.desk.history.record(
            TENANT, lease.cost, environment=lease.environment, period=lease.period, credential_id=KEY
        )

    async def sell(self, cost: int) -> None:
        lease = await self.lease(cost)
        self.book(lease)
        await self.desk.settle(lease)

    async def used(self) -> list[int]:
        return [(await self.desk.counted(rule))[0] for rule in QUOTAS]

    def repaired(self, direction: str) -> float | None:
        return self.metrics.registry.get_sample_value("forecourt_quota_repaired_units_total", {"direction": direction})


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Server]:
    """A server of these tests alone: every counter on it is compared."""
    with private_redis_server() as server:
        yield server


@pytest.fixture
async def client(own_redis: Server) -> AsyncIterator[Redis]:
    client = Redis.from_url(own_redis.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def line(own_redis: Server, client: Redis) -> AsyncIterator[Line]:
    line = open_line(own_redis.url, PATIENT_S)
    yield line
    await line.aclose()


@pytest.fixture
def books(line: Line, clock: FakeClock) -> Books:
    history, metrics = FakeHistory(), PrometheusMetrics()
    # By Redis' own clock: the script that repairs looks at which leases still run.
    admission = RedisAdmission(ScriptRunner(line), history, cache_ttl_s=60)
    spill = RedisUsageSpill(line, line, limit=100, metrics=metrics)
    reconciliation = RedisQuotaReconciliation(line, history, spill, SystemClock(), metrics=metrics)
    return Books(Desk(admission, clock, history), spill, metrics, reconciliation)


async def test_counters_in_step_stay_as_they_are(books: Books) -> None:
    for cost in (1, 2, 3):
        await books.sell(cost)
    assert await books.reconciliation.run() == 0
    assert await books.used() == [6, 6]


async def test_requests_under_way_explain_a_difference(books: Books) -> None:
    """Booked and not settled yet, leased and not booked yet: neither has been lost."""
    await books.sell(5)
    settled_later = await books.lease(7)
    books.book(settled_later)
    await books.lease(9)
    assert await books.reconciliation.run() == 0
    await books.desk.settle(settled_later)
    assert await books.used() == [12, 12]


async def test_a_lost_settlement_is_added_once(books: Books) -> None:
    await books.sell(5)
    lost = await books.lease(7)
    books.book(lost)
    await books.desk.release(lost)
    assert await books.reconciliation.run() == 2
    assert await books.used() == [12, 12]
    assert await asyncio.gather(*(books.reconciliation.run() for _ in range(4))) == [0] * 4
    assert await books.used() == [12, 12]
    assert (books.repaired("up"), books.repaired("down")) == (14, 0)


async def test_l4_what_was_under_way_while_redis_lost_everything_is_found(books: Books, client: Redis) -> None:
    await books.sell(5)
    under_way = await books.lease(7)
    await client.flushall()
    assert await books.used() == [5, 5]
    books.book(under_way)
    await books.desk.settle(under_way)
    assert await books.used() == [5, 5]
    assert await books.reconciliation.run() == 2
    assert await books.used() == [12, 12]


async def test_what_was_counted_and_is_nowhere_is_taken_off_once(books: Books) -> None:
    await books.sell(5)
    await books.desk.settle(await books.lease(7))
    assert sum(await asyncio.gather(*(books.reconciliation.run() for _ in range(4)))) == 2
    assert await books.used() == [5, 5]
    assert books.repaired("down") == 14


async def test_what_waits_for_the_ledger_is_not_taken_off(books: Books) -> None:
    await books.sell(5)
    await books.desk.settle(await books.lease(7))
    await books.spill.put([an_event(TENANT)])
    assert await books.reconciliation.run() == 0
    assert await books.used() == [12, 12]


async def test_live_and_test_counters_are_apart(books: Books) -> None:
    lost = await books.lease(7, Environment.TEST)
    books.book(lost)
    await books.desk.release(lost)
    await books.sell(1)
    assert await books.reconciliation.run() == 2
    assert await books.used() == [1, 1]


async def test_nothing_is_repaired_while_the_ledger_cannot_be_read(books: Books) -> None:
    lost = await books.lease(7)
    books.book(lost)
    await books.desk.release(lost)
    books.desk.history.is_down = True
    with pytest.raises(StoreUnavailable):
        await books.reconciliation.run()
    assert await books.used() == [0, 0]


async def test_a_redis_that_is_down_is_unavailable(clock: FakeClock) -> None:
    line = open_line("redis://127.0.0.1:1", 0.5)
    metrics = PrometheusMetrics()
    spill = RedisUsageSpill(line, line, limit=1, metrics=metrics)
    with pytest.raises(EnforcementUnavailable):
        await RedisQuotaReconciliation(line, FakeHistory(), spill, clock, metrics=metrics).run()
    await line.aclose()


def test_the_quotas_of_these_tests_are_of_both_kinds() -> None:
    assert {rule.scope for rule in QUOTAS} == {"tenant", "key"}
    assert all(isinstance(rule, QuotaRule) for rule in QUOTAS)
