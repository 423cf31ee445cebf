"""What a read of a key asks of either database: counted at the driver, because it is what each new key costs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from sqlalchemy import event, text

from backend.adapters.db.engine import open_engine
from backend.adapters.db.key_directory import SqlKeyDirectory
from backend.adapters.db.key_reads import AT_ONCE
from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import ApiKey
from backend.domain.errors import Invalid, StoreUnavailable
from backend.domain.plans import seed_plans
from tests.contracts.test_key_directory import PATIENT_S, Registry
from tests.databases import connected
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

FREE, PRO, ENTERPRISE = seed_plans()
CALLERS = 5 * AT_ONCE
SHORT_S = 0.5
# Each way in which PostgreSQL would rather not read these tables, few as their rows are here.
UNLIKELY_PLANS = (
    (),
    ("enable_seqscan",),
    ("enable_indexscan", "enable_bitmapscan"),
    ("enable_nestloop",),
    ("enable_nestloop", "enable_hashjoin"),
    ("enable_nestloop", "enable_mergejoin", "enable_material"),
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(open_engine(database_url, pool_size=2, timeout_s=PATIENT_S))
    yield database
    await database.aclose()


@pytest.fixture
async def directory(database: Database, clock: FakeClock) -> AsyncIterator[SqlKeyDirectory]:
    directory = SqlKeyDirectory(database, clock)
    yield directory
    await directory.aclose()


@pytest.fixture
async def key(database: Database) -> ApiKey:
    registry = Registry(database)
    return await registry.key(await registry.tenant())


@contextmanager
def overheard(database: Database, folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Yield what tells how a database is asked on connections that are made from now on, once each."""
    if database.engine.dialect.name == "sqlite":
        said: list[str] = []

        def listen(connection: Any, _entry: object) -> None:
            connection.run_async(lambda driver: driver.set_trace_callback(said.append))

        def hear() -> list[str]:
            heard, said[:] = said[:], []
            return heard

        event.listen(database.engine.sync_engine, "connect", listen)
        yield hear
        return
    protocol = folder / "protocol"
    with protocol.open("w") as written, protocol.open() as file, ExitStack() as traced:

        def trace(connection: Any, _entry: object) -> None:
            driver = connection.driver_connection.pgconn
            driver.trace(written.fileno())
            # Before the file is closed: its number would be another's.
            traced.callback(driver.untrace)

        def read() -> list[str]:
            messages = [line.split("\t") for line in file.read().splitlines()]
            # The client's: what runs a prepared statement, what is any other statement, what ends a trip.
            asked = [message[3] for message in messages if message[1:2] == ["F"]]
            return [message for message in asked if message in {"Execute", "Query", "Sync"}]

        event.listen(database.engine.sync_engine, "connect", trace)
        yield read


async def test_a_read_is_one_statement_in_one_trip(
    database: Database, directory: SqlKeyDirectory, key: ApiKey, tmp_path: Path
) -> None:
    await database.engine.dispose()
    with overheard(database, tmp_path) as heard:
        assert await directory.reload(key.lookup_id)
        assert len(heard()) > 1, "the first one makes a connection, and reads the plan"
        for lookup_id in (key.lookup_id, "nobodystored", key.lookup_id):
            await directory.reload(lookup_id)
            asked = heard()
            if database.engine.dialect.name == "sqlite":
                assert [statement.split()[0] for statement in asked] == ["SELECT"]
            else:
                assert asked == ["Execute", "Sync"]


async def test_a_plan_is_read_once_for_all_its_keys(
    database: Database, directory: SqlKeyDirectory, tmp_path: Path
) -> None:
    registry = Registry(database)
    keys = [await registry.key(await registry.tenant(plan)) for plan in (PRO, PRO, FREE, PRO, FREE)]
    grants = [await directory.reload(key.lookup_id) for key in keys]
    plans = [grant.plan for grant in grants if grant is not None]
    assert plans == [PRO, PRO, FREE, PRO, FREE]
    assert len({id(plan) for plan in plans}) == 2


async def test_many_reads_at_once_leave_the_pool_to_others(
    database: Database, directory: SqlKeyDirectory, key: ApiKey
) -> None:
    pool: Any = database.engine.pool
    grants = await asyncio.gather(*[directory.reload(key.lookup_id) for _ in range(CALLERS)])
    assert [grant.key.id for grant in grants if grant is not None] == [key.id] * CALLERS
    assert 0 < pool.checkedout() <= AT_ONCE
    await directory.aclose()
    assert pool.checkedout() == 0
    assert await directory.reload(key.lookup_id) is not None


async def test_a_read_that_is_given_up_spoils_no_other(
    database: Database, directory: SqlKeyDirectory, key: ApiKey
) -> None:
    await directory.reload(key.lookup_id)
    for _ in range(3):
        given_up = [asyncio.create_task(directory.reload(key.lookup_id)) for _ in range(CALLERS)]
        await checkpoint()
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        grants = await asyncio.gather(*[directory.reload(key.lookup_id) for _ in range(CALLERS)])
        assert {grant.key.id for grant in grants if grant is not None} == {key.id}


async def test_an_id_is_not_read_up_to_a_zero_in_it(directory: SqlKeyDirectory, key: ApiKey) -> None:
    # PostgreSQL holds no such text.
    with suppress(Invalid):
        assert await directory.reload(f"{key.lookup_id}\0more") is None
    assert await directory.reload(key.lookup_id) is not None


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_reads_that_wait_for_a_lock_are_bounded_and_go_on_afterwards(
    database_url: str, key: ApiKey, clock: FakeClock
) -> None:
    impatient = Database(open_engine(database_url, pool_size=2, timeout_s=SHORT_S))
    directory = SqlKeyDirectory(impatient, clock)
    assert await directory.reload(key.lookup_id)
    with connected(database_url) as holder:
        holder.execute(text("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(PATIENT_S):
            outcomes = await asyncio.gather(
                *[directory.reload(key.lookup_id) for _ in range(CALLERS)], return_exceptions=True
            )
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        holder.rollback()
    # A lock is no outage: nobody has to wait until the server is believed again.
    assert await directory.reload(key.lookup_id)
    await directory.aclose()
    await impatient.aclose()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("switched_off", UNLIKELY_PLANS, ids="-".join)
async def test_a2_a_key_is_seen_however_its_read_is_planned(
    database: Database, key: ApiKey, clock: FakeClock, switched_off: tuple[str, ...]
) -> None:
    def prefer(connection: Any, _entry: object) -> None:
        cursor = connection.cursor()
        # What is switched off is dear, and what is dear is compiled first.
        for name in ("jit", *switched_off):
            cursor.execute(f"SET {name} = off")
        cursor.close()
        connection.commit()

    await database.engine.dispose()
    event.listen(database.engine.sync_engine, "connect", prefer)
    directory = SqlKeyDirectory(database, clock)
    # The server plans a prepared statement anew for its first runs, and then once for all.
    for _ in range(8):
        assert await directory.reload(key.lookup_id) is not None
    await directory.aclose()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a2_a_connection_that_read_a_key_sees_nobodys_rows_afterwards(
    database: Database, directory: SqlKeyDirectory, key: ApiKey
) -> None:
    await database.engine.dispose()
    assert await directory.reload(key.lookup_id)
    await directory.aclose()
    pool: Any = database.engine.pool
    async with AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(database.engine.connect()) for _ in range(pool.checkedin())]
        prepared = [await each.scalar(text("SELECT count(*) FROM pg_prepared_statements")) for each in kept]
        assert 1 in prepared, "one of them read"
        for connection in kept:
            assert await connection.scalar(text("SELECT count(*) FROM api_keys")) == 0
            assert await connection.scalar(text("SELECT current_user")) == "forecourt_app"
