"""The database goes away under load (LEDGER.md R2 to R5): what is sold is booked once, and nobody waits in vain.

The server shape: PostgreSQL and Redis of the test's own, and one server process that answers customers meanwhile.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import anyio
import httpx
import psycopg
import pytest
import redis as redis_client
from sqlalchemy import text

from backend.adapters.redis import keys
from tests.api.conftest import SECRETS
from tests.databases import connected, postgres_cut_off, writers_held_off
from tests.integration.conftest import NewSite
from tests.integration.customers import Customers
from tests.integration.database_outages import DATABASE_BOUND_S, SLACK_S, WITHIN_S, Outage, in_thread, under_load
from tests.integration.forecourt_process import ServerProcess, forecourt
from tests.server_process import Server
from tests.servers import private_postgres_server, private_redis_server

pytestmark = [pytest.mark.anyio, pytest.mark.process]

MANY = 100
FEW = 30


@pytest.fixture
def postgres() -> Iterator[Server]:
    with private_postgres_server(durable=True) as server:
        yield server


@pytest.fixture
def redis() -> Iterator[Server]:
    with private_redis_server(keeps_writes=True) as server:
        yield server


@pytest.fixture
def database_url(postgres: Server) -> str:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE forecourt")
    return f"{postgres.url.rpartition('/')[0]}/forecourt".replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture
def server(make_site: NewSite, database_url: str, redis: Server) -> ServerProcess:
    # The bound of Redis is wider than in production: a loaded machine is not its outage.
    site = make_site(DATABASE_URL=database_url, REDIS_URL=redis.url, REDIS_TIMEOUT_S="1", LOG_FORMAT="json")
    return site.start()


async def goes_on_through(outage: Outage, name: str, fail: Callable[[], object], heal: Callable[[], object]) -> None:
    """Sell before, meanwhile and afterwards."""
    await outage.sells(FEW)
    before = len(outage.answered)
    await in_thread(fail)
    await outage.sells(MANY)
    await outage.is_ready(ledger="degraded")
    outage.report(name, before)
    healed = len(outage.answered)
    await in_thread(heal)
    await outage.is_ready(ledger="ok", database="ok")
    await outage.sells(FEW)
    outage.report(f"{name}, healed", healed)
    outage.require_bounded(DATABASE_BOUND_S)
    assert all(each.body["code"] == "metering-unavailable" for each in outage.refusals)


async def test_l3_usage_is_kept_while_postgresql_is_down(server: ServerProcess, postgres: Server) -> None:
    async with under_load(server) as outage:
        await goes_on_through(outage, "killed", postgres.kill, postgres.start_again)
        assert outage.refusals == []
    changes = [line["message"] for line in server.logged if line["message"].startswith("ledger ")]
    # A line for each change, and none for each request.
    assert changes == ["ledger does not answer: not used until it does", "ledger answers again"]


async def test_l3_usage_is_kept_while_postgresql_hangs(server: ServerProcess, postgres: Server) -> None:
    async with under_load(server) as outage:
        await goes_on_through(outage, "paused", postgres.pause, postgres.resume)
        assert outage.refusals == []


async def test_a_restart_of_postgresql_loses_nothing(server: ServerProcess, postgres: Server) -> None:
    async with under_load(server) as outage:
        await outage.sells(FEW)
        for _ in range(3):
            before = len(outage.answered)
            await in_thread(postgres.restart)
            await outage.sells(FEW)
            outage.report("restarted", before)
        await outage.is_ready(ledger="ok", database="ok")
        outage.require_bounded(DATABASE_BOUND_S)
        assert outage.refusals == []


async def test_usage_is_kept_while_the_ledger_is_locked(server: ServerProcess, database_url: str) -> None:
    async with under_load(server) as outage:
        with ExitStack() as lock:
            await goes_on_through(
                outage, "locked", lambda: lock.enter_context(writers_held_off(database_url)), lock.close
            )
        assert outage.refusals == []


async def test_usage_is_kept_while_postgresql_lets_nobody_in(server: ServerProcess, database_url: str) -> None:
    """Everybody is thrown out, and whoever comes back is refused: as a server does that has no connection left."""
    async with under_load(server) as outage:
        with ExitStack() as closed:
            await goes_on_through(
                outage, "full", lambda: closed.enter_context(postgres_cut_off(database_url)), closed.close
            )
        assert outage.refusals == []


async def test_a_pool_that_others_use_up_does_not_hold_up_metering(server: ServerProcess, database_url: str) -> None:
    """Whoever asks the store waits for a lock, with every connection of the pool. Whoever predicts does not."""
    statuses: list[tuple[int, float]] = []

    async def ask_the_store(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        while not outage.load.stopping:
            began_s = time.monotonic()
            answer = await client.get("/v1/usage/summary", headers=headers)
            statuses.append((answer.status_code, time.monotonic() - began_s))

    async with under_load(server) as outage:
        await outage.sells(FEW)
        async with (
            Customers(server.base_url, outage.load.credentials) as customers,
            anyio.create_task_group() as asking,
        ):
            with connected(database_url) as holder:
                await in_thread(lambda: holder.execute(text("LOCK TABLE usage_rollups IN ACCESS EXCLUSIVE MODE")))
                for _ in range(40):
                    asking.start_soon(ask_the_store, customers.client, customers["acme"].key())
                with anyio.fail_after(WITHIN_S):
                    while len(statuses) < 40:
                        await anyio.sleep(0.05)
                await outage.sells(MANY)
                holder.rollback()
            with anyio.fail_after(WITHIN_S):
                while statuses[-1][0] != 200:
                    await anyio.sleep(0.05)
            asking.cancel_scope.cancel()
        assert {status for status, _ in statuses} == {200, 503}
        # For a connection, then for an answer.
        assert max(took_s for _, took_s in statuses) < 2 * DATABASE_BOUND_S + SLACK_S
        outage.require_bounded(DATABASE_BOUND_S)
        assert outage.refusals == []


async def test_what_does_not_fit_is_refused_before_it_is_promised(
    make_site: NewSite, database_url: str, postgres: Server, redis: Server
) -> None:
    room = 60
    site = make_site(DATABASE_URL=database_url, REDIS_URL=redis.url, REDIS_TIMEOUT_S="1", SPILL_LIMIT=str(room))
    async with under_load(site.start()) as outage:
        await outage.sells(FEW)
        await in_thread(postgres.kill)
        await outage.refuses(FEW)
        with redis_client.Redis.from_url(redis.url) as client:
            assert client.xlen(keys.usage_spill()) == room
        assert all(each.body["code"] == "metering-unavailable" for each in outage.refusals)
        assert all(each.body["retry_after"] >= 1 for each in outage.refusals)
        await in_thread(postgres.start_again)
        await outage.is_ready(ledger="ok")
        await outage.sells(FEW)
        outage.require_bounded(DATABASE_BOUND_S)


async def test_with_both_stores_down_nothing_is_sold_until_they_are_back(
    server: ServerProcess, postgres: Server, redis: Server
) -> None:
    async with under_load(server) as outage:
        await outage.sells(FEW)
        before = len(outage.answered)
        await in_thread(partial(for_each, Server.kill, postgres, redis))
        await outage.refuses(FEW)
        await outage.is_ready(status=503)
        assert all(each.body["retry_after"] >= 1 for each in outage.refusals)
        outage.report("both down", before)
        await in_thread(partial(for_each, Server.start_again, redis, postgres))
        await outage.is_ready(ledger="ok", database="ok")
        await outage.sells(FEW)
        outage.require_bounded(DATABASE_BOUND_S)


def for_each(work: Callable[[Server], None], *servers: Server) -> None:
    for server in servers:
        work(server)


async def test_a_worker_drains_what_servers_kept(
    make_site: NewSite, database_url: str, postgres: Server, redis: Server
) -> None:
    """Servers that leave the jobs to a worker: it runs once, as from cron, and everything is booked."""
    settings = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis.url,
        "REDIS_TIMEOUT_S": "1",
        "JOBS": "worker",
        "ENVIRONMENT": "demo",
        # The worker's own: it opens what tenants' webhooks are signed with.
        "SECRET_KEY": SECRETS["secret_key"],
        "KEY_PEPPERS": SECRETS["key_peppers"],
    }
    async with under_load(make_site(**settings).start()) as outage:
        await outage.sells(FEW)
        await in_thread(postgres.kill)
        await outage.sells(FEW)
        failed = await anyio.to_thread.run_sync(lambda: forecourt("worker", "--once", settings=settings))
        assert failed.returncode == 1
        assert "the database cannot be used" in failed.stderr
        await in_thread(postgres.start_again)
        await outage.is_ready(ledger="ok")
        with redis_client.Redis.from_url(redis.url) as client:
            assert client.xlen(keys.usage_spill()) >= FEW
            done = await anyio.to_thread.run_sync(lambda: forecourt("worker", "--once", settings=settings))
            assert done.returncode == 0, done.stderr
            assert client.xlen(keys.usage_spill()) == 0
