"""What every test may ask for: a clock it can set, and real Redis and PostgreSQL servers.

One server of each kind serves a whole run, started at its first use. Under pytest-xdist the controller starts Redis
and tells the workers, each of which has databases of its own in it. A PostgreSQL server each worker starts for itself:
a transaction that is open anywhere in a server holds the watermark of all of its ledgers back.
"""

import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from backend.adapters.redis import open_line
from backend.adapters.redis.line import Line
from tests.databases import drop_postgres_database, drop_template, make_postgres_database
from tests.fakes import FakeClock
from tests.redis_client import connect
from tests.scheduling import FIRST, SharedTogether
from tests.server_process import Server
from tests.servers import ServerNotFound, postgres_server, private_redis_server, redis_server

# Tests that import onnxruntime themselves must not have it report either.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Every process of a run imports all tests, and pytest has to rewrite their assertions: seconds each, unless it may keep
# what it made. The directories are ignored by Git.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

STARTERS = {"redis": redis_server, "postgres": postgres_server}
SHARED = ("redis",)
"""What all workers use together."""

# A loaded machine is no reason to fail.
settings.register_profile("forecourt", deadline=None)
settings.load_profile("forecourt")


class Servers:
    """The servers of this run: started here or, if this is a worker of it and all share them, by the controller."""

    def __init__(self, started_elsewhere: dict[str, str] | None = None) -> None:
        self._urls = {} if started_elsewhere is None else started_elsewhere
        self._running = ExitStack()

    def url(self, kind: str) -> str:
        if kind not in self._urls:
            self._urls[kind] = self._running.enter_context(STARTERS[kind]())
        return self._urls[kind]

    def urls(self) -> dict[str, str]:
        """Return what workers are told: a URL of what they share, or the sentence that says why there is none."""
        for kind in SHARED:
            try:
                self.url(kind)
            except ServerNotFound as error:
                self._urls[kind] = str(error)
        return self._urls

    def close(self) -> None:
        self._running.close()


SERVERS = pytest.StashKey[Servers]()
WORKER_NUMBER = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    worker: dict[str, str] | None = getattr(config, "workerinput", None)
    told = None if worker is None else {kind: worker[kind] for kind in SHARED}
    config.stash[SERVERS] = Servers(told)
    config.stash[WORKER_NUMBER] = 0 if worker is None else int(worker["workerid"].removeprefix("gw"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist, which is about to start, where the servers are."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # pytest-xdist has no types
    node.workerinput.update(config.stash[SERVERS].urls())  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return SharedTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not str(item.nodeid).startswith(FIRST))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the collector from walking a million objects of libraries again and again: a third of the run's time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    servers = config.stash.get(SERVERS, None)
    if servers is not None:
        servers.close()


def _server_url(config: pytest.Config, kind: str) -> str:
    try:
        url = config.stash[SERVERS].url(kind)
    except ServerNotFound as error:
        url = str(error)
    if "://" not in url:
        _refuse(config, url)
    return url


def _refuse(config: pytest.Config, sentence: str) -> NoReturn:
    """Say in one line what is missing. A worker of pytest-xdist cannot end the run, so there each test says it."""
    if hasattr(config, "workerinput"):
        pytest.fail(sentence, pytrace=False)
    pytest.exit(sentence, returncode=pytest.ExitCode.USAGE_ERROR)


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> str:
    """A database of its own for each worker; what is in it belongs to the test that runs."""
    return _with_database(_server_url(pytestconfig, "redis"), str(pytestconfig.stash[WORKER_NUMBER]))


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty database. Its bound is wide: these tests are about results, not about waiting."""
    client = connect(redis_url, timeout_s=10.0)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def redis_line(redis_url: str, redis_client: Redis) -> AsyncIterator[Line]:
    """The product's way to the same database, as patient."""
    line = open_line(redis_url, 10.0)
    yield line
    await line.aclose()


@pytest.fixture(scope="session")
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """A fresh database for each worker, as SQLAlchemy reads it, for a superuser."""
    server = _server_url(pytestconfig, "postgres").replace("postgresql://", "postgresql+psycopg://", 1)
    base = server.rpartition("/")[0]
    name = f"forecourt_test_{pytestconfig.stash[WORKER_NUMBER]}"
    drop_postgres_database(base, name)
    make_postgres_database(base, name)
    yield f"{base}/{name}"
    drop_postgres_database(base, name)
    drop_template(base)


@pytest.fixture
def start_private_redis(pytestconfig: pytest.Config) -> Iterator[Callable[[], Server]]:
    """Starts Redis servers that a test may pause and kill."""
    with ExitStack() as running:

        def start() -> Server:
            try:
                return running.enter_context(private_redis_server())
            except ServerNotFound as error:
                _refuse(pytestconfig, str(error))

        yield start
