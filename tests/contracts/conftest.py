"""Every adapter of a port, under one name: a test that asks for the port runs once for each."""

from collections.abc import AsyncIterator, Iterator

import pytest

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.fallback import FallbackLoginThrottle
from backend.adapters.memory import MemoryLoginThrottle
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis import RedisLoginThrottle, ScriptRunner
from backend.services.ports import LoginThrottle
from tests.contracts.asking import Desk
from tests.contracts.ledgers import Books, opened_books
from tests.contracts.stores import Store, fallback_store, memory_store, redis_store
from tests.databases import migrated_database
from tests.fakes import FakeClock, FakeHistory


@pytest.fixture
def history() -> FakeHistory:
    return FakeHistory()


STORES = {"redis": redis_store, "fallback": fallback_store}


@pytest.fixture(params=["memory", "redis", "fallback"])
def store(request: pytest.FixtureRequest, clock: FakeClock, history: FakeHistory) -> Store:
    if request.param == "memory":
        return memory_store(clock, history)
    return STORES[request.param](
        request.getfixturevalue("redis_line"), request.getfixturevalue("redis_client"), clock, history
    )


@pytest.fixture
def desk(store: Store, clock: FakeClock, history: FakeHistory) -> Desk:
    return Desk(store.open(), clock, history)


@pytest.fixture(params=["memory", "redis", "fallback"])
def throttle(request: pytest.FixtureRequest, clock: FakeClock) -> LoginThrottle:
    local = MemoryLoginThrottle(clock)
    if request.param == "memory":
        return local
    shared = RedisLoginThrottle(ScriptRunner(request.getfixturevalue("redis_line")), clock=clock)
    return FallbackLoginThrottle(shared, local) if request.param == "fallback" else shared


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A migrated database of either kind; tests of one module share it, and have tenants of their own."""
    with migrated_database(request, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture(scope="module")
async def books(database_url: str) -> AsyncIterator[Books]:
    async with opened_books(database_url) as books:
        yield books


@pytest.fixture
def metrics() -> PrometheusMetrics:
    """What the ledger under test counts on."""
    return PrometheusMetrics()


@pytest.fixture
async def ledger(books: Books, metrics: PrometheusMetrics) -> AsyncIterator[GroupCommitLedger]:
    async with books.writer(metrics=metrics) as ledger:
        yield ledger


@pytest.fixture
def reader(books: Books, clock: FakeClock) -> SqlUsageReader:
    return SqlUsageReader(books.database, clock)
