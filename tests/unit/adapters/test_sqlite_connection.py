"""SQLite in few trips: how many there are, and what a trip for somebody who has left leaves behind."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.engine import for_writing, open_engine
from backend.adapters.db.sqlite_connection import UNANSWERED, DirectConnection, connect
from backend.adapters.db.write_turns import WriteTurns
from tests.databases import sqlite_url

pytestmark = pytest.mark.anyio

PATIENT_S = 30.0


class Trips(DirectConnection):
    """A connection that says how often its thread was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(lambda: sqlite3.connect(*args, **options))
        self.made = 0

    async def ask(self, question: Callable[[sqlite3.Connection], Any]) -> Any:
        self.made += 1
        return await super().ask(question)


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Trips]:
    connection = Trips(tmp_path / "file.db", isolation_level=None)
    async with connection:
        await connection.ask(lambda db: db.execute("CREATE TABLE notes (number INTEGER UNIQUE)"))
        connection.made = 0
        yield connection


async def test_a_statement_is_one_trip_with_its_rows_and_its_begin(connection: Trips) -> None:
    connection.begin_with("BEGIN IMMEDIATE")
    cursor = connection.cursor()
    await cursor.execute("INSERT INTO notes VALUES (?), (?) RETURNING number", (1, 2))
    assert await cursor.fetchall() == [(1,), (2,)]
    assert cursor.description[0][0] == "number"
    assert connection.made == 1
    assert connection.in_transaction
    await connection.commit()
    assert connection.made == 2
    assert not connection.in_transaction


async def test_what_began_nothing_needs_no_trip_to_end(connection: Trips) -> None:
    connection.begin_with("BEGIN IMMEDIATE")
    await connection.commit()
    connection.begin_with("BEGIN IMMEDIATE")
    await connection.rollback()
    assert connection.made == 0
    # Nor does what was to begin begin later.
    cursor = connection.cursor()
    await cursor.execute("SELECT 1")
    assert not connection.in_transaction


async def test_many_rows_are_one_trip_too(connection: Trips) -> None:
    connection.begin_with("BEGIN")
    cursor = connection.cursor()
    await cursor.executemany("INSERT INTO notes VALUES (?)", [(number,) for number in range(100)])
    assert cursor.rowcount == 100
    await connection.rollback()
    cursor = connection.cursor()
    await cursor.execute("SELECT count(*) FROM notes")
    assert await cursor.fetchall() == [(0,)]
    assert connection.made == 3


async def test_a_statement_that_fails_leaves_its_transaction_to_be_rolled_back(connection: Trips) -> None:
    connection.begin_with("BEGIN")
    cursor = connection.cursor()
    with pytest.raises(sqlite3.IntegrityError):
        await cursor.execute("INSERT INTO notes VALUES (1), (1)")
    assert connection.in_transaction
    await connection.rollback()
    assert not connection.in_transaction


async def test_what_needs_no_answer_goes_along_with_the_next_trip(connection: Trips) -> None:
    connection.begin_with("BEGIN IMMEDIATE")
    for number in (1, 2):
        connection.leave_next_unanswered()
        await connection.cursor().execute("INSERT INTO notes VALUES (?)", (number,))
    assert connection.made == 0
    cursor = connection.cursor()
    await cursor.execute("SELECT number FROM notes ORDER BY number")
    assert await cursor.fetchall() == [(1,), (2,)]
    connection.leave_next_unanswered()
    await cursor.execute("INSERT INTO notes VALUES (3)")
    await connection.commit()
    assert connection.made == 2
    await cursor.execute("SELECT count(*) FROM notes")
    assert await cursor.fetchall() == [(3,)]


async def test_what_was_put_off_is_forgotten_by_a_rollback(connection: Trips) -> None:
    connection.begin_with("BEGIN IMMEDIATE")
    connection.leave_next_unanswered()
    cursor = connection.cursor()
    await cursor.execute("INSERT INTO notes VALUES (1)")
    await connection.rollback()
    await connection.commit()
    assert connection.made == 0
    await cursor.execute("SELECT count(*) FROM notes")
    assert await cursor.fetchall() == [(0,)]


async def test_a_rollback_waits_for_what_the_thread_still_does_for_somebody_who_left(connection: Trips) -> None:
    holding, may_go_on = threading.Event(), threading.Event()

    def insert_slowly(db: sqlite3.Connection) -> None:
        holding.set()
        may_go_on.wait(PATIENT_S)
        db.execute("INSERT INTO notes VALUES (1)")

    connection.begin_with("BEGIN IMMEDIATE")
    leaving = asyncio.create_task(connection.ask(insert_slowly))
    await anyio.to_thread.run_sync(holding.wait)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    rolling_back = asyncio.create_task(connection.rollback())
    await asyncio.sleep(0)
    may_go_on.set()
    await rolling_back
    assert not connection.in_transaction


async def test_a_connection_that_nobody_closed_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    connection = connect(tmp_path / "file.db")
    await connection
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    await connection.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(sqlite_url(tmp_path), pool_size=4, timeout_s=PATIENT_S, turns=WriteTurns(PATIENT_S))
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("CREATE TABLE notes (number INTEGER UNIQUE)"))
    yield engine
    await engine.dispose()


async def numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT number FROM notes ORDER BY number")))


async def test_through_sqlalchemy_a_transaction_is_all_or_nothing(engine: AsyncEngine) -> None:
    insert = text("INSERT INTO notes VALUES (:number)")
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(for_writing(engine).begin())
        await connection.execute(insert, [{"number": 1}, {"number": 2}])
        with pytest.raises(IntegrityError):
            await connection.execute(insert, {"number": 1})
        await connection.rollback()
    assert await numbers(engine) == []
    async with for_writing(engine).begin() as connection:
        await connection.execute(insert, [{"number": 1}, {"number": 2}])
    assert await numbers(engine) == [1, 2]


@pytest.mark.parametrize("finds_out", ["the next statement", "the commit"])
async def test_what_was_put_off_fails_where_it_is_executed_and_takes_all_with_it(
    engine: AsyncEngine, finds_out: str
) -> None:
    unanswered = text("INSERT INTO notes VALUES (:number)").execution_options(**{UNANSWERED: True})
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(for_writing(engine).connect())
        for _ in range(2):
            await connection.execute(unanswered, {"number": 1})
        ending = connection.commit() if finds_out == "the commit" else connection.execute(text("SELECT 1"))
        with pytest.raises(IntegrityError):
            await ending
        await connection.rollback()
    assert await numbers(engine) == []
    await write_one(engine, 1)
    assert await numbers(engine) == [1]


async def test_a_write_that_is_cut_off_leaves_the_file_to_the_next_at_once(engine: AsyncEngine) -> None:
    """A caller leaves while SQLite works on its statement: nothing of it stays, neither its rows nor its lock."""
    holding, may_go_on = threading.Event(), threading.Event()

    def hold(_: int) -> int:
        holding.set()
        may_go_on.wait(PATIENT_S)
        return 1

    def with_function(driver: Any, _entry: Any) -> None:
        driver.create_function("hold", 1, hold)

    event.listen(engine.sync_engine, "connect", with_function)
    # Those that are open already do not know the function.
    await engine.dispose()

    async def write() -> None:
        async with for_writing(engine).begin() as connection:
            await connection.execute(text("INSERT INTO notes VALUES (1)"))
            await connection.execute(text("INSERT INTO notes VALUES (1 + hold(1))"))

    leaving = asyncio.create_task(write())
    await anyio.to_thread.run_sync(holding.wait)
    leaving.cancel()
    next_one = asyncio.create_task(write_one(engine, 7))
    await asyncio.sleep(0)
    may_go_on.set()
    with suppress(asyncio.CancelledError):
        await leaving
    await next_one
    assert await numbers(engine) == [7]
    # Its turn was given on, once: two more get in one after the other.
    await asyncio.gather(write_one(engine, 8), write_one(engine, 9))
    assert await numbers(engine) == [7, 8, 9]


async def write_one(engine: AsyncEngine, number: int) -> None:
    # Far less than the driver's own wait for a lock: it is not what this waits for.
    async with asyncio.timeout(PATIENT_S / 2), for_writing(engine).begin() as connection:
        await connection.execute(text("INSERT INTO notes VALUES (:number)"), {"number": number})
