"""Rows for SQLite in one statement: what is written, who waits for whom, and what a caller who leaves leaves behind."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.direct_insert import MOST_ROWS, DirectInsert
from backend.adapters.db.engine import for_writing, open_engine
from backend.adapters.db.sqlite_connection import DirectConnection
from tests.databases import sqlite_url, writers_held_off

pytestmark = pytest.mark.anyio

PATIENT_S = 30.0


@pytest.fixture
def drivers() -> list[DirectConnection]:
    """The engine's connections in the order in which they were made: the first is the insert's."""
    return []


@pytest.fixture
async def engine(tmp_path: Path, drivers: list[DirectConnection]) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(sqlite_url(tmp_path), pool_size=2, timeout_s=PATIENT_S)

    def note(connection: Any, _entry: object) -> None:
        drivers.append(connection.driver_connection)

    event.listen(engine.sync_engine, "connect", note)
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("CREATE TABLE notes (number INTEGER UNIQUE NOT NULL, content TEXT)"))
    yield engine
    await engine.dispose()


@pytest.fixture
async def notes(engine: AsyncEngine) -> AsyncIterator[DirectInsert]:
    async with opened(engine) as notes:
        yield notes


@asynccontextmanager
async def opened(engine: AsyncEngine) -> AsyncIterator[DirectInsert]:
    notes = DirectInsert(engine, "notes", ("number", "content"))
    yield notes
    await notes.aclose()


def some(*numbers: int) -> list[tuple[int, str]]:
    return [(number, f"note {number}") for number in numbers]


@contextmanager
def kept_busy(driver: DirectConnection) -> Iterator[None]:
    """Give a connection's thread something else to do."""
    may_go_on = threading.Event()
    driver.send(lambda _: may_go_on.wait(PATIENT_S))
    try:
        yield
    finally:
        may_go_on.set()


async def numbers(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT number FROM notes ORDER BY number")))


async def write_one(engine: AsyncEngine, number: int) -> None:
    async with asyncio.timeout(PATIENT_S), for_writing(engine).begin() as connection:
        await connection.execute(text("INSERT INTO notes (number) VALUES (:number)"), {"number": number})


async def test_only_what_is_not_there_is_written_and_counted(engine: AsyncEngine, notes: DirectInsert) -> None:
    assert await notes.run(some(1, 2)) == 2
    assert await notes.run([(2, "another"), (3, "new"), (3, "twice")]) == 1
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT number, content FROM notes ORDER BY number"))
        assert [tuple(row) for row in found] == [(1, "note 1"), (2, "note 2"), (3, "new")]


@pytest.mark.parametrize("size", [1, 16, 17, 500, MOST_ROWS])
async def test_any_number_of_rows_is_written_once_each(engine: AsyncEngine, notes: DirectInsert, size: int) -> None:
    assert await notes.run(some(*range(size))) == size
    assert await numbers(engine) == list(range(size))


async def test_too_many_rows_are_left_to_others(engine: AsyncEngine, notes: DirectInsert) -> None:
    assert await notes.run(some(*range(MOST_ROWS + 1))) is None
    assert await numbers(engine) == []


async def test_a_row_that_the_table_refuses_takes_all_with_it(engine: AsyncEngine, notes: DirectInsert) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await notes.run([*some(1, 2), (None, "no number")])
    assert await numbers(engine) == []
    assert await notes.run(some(1)) == 1


async def test_a_file_that_another_process_writes_to_is_not_waited_for(
    engine: AsyncEngine, notes: DirectInsert
) -> None:
    with writers_held_off(str(engine.url)):
        # Far less than the engine's own connections wait for.
        with anyio.fail_after(PATIENT_S / 2):
            assert await notes.run(some(1)) is None
    assert await numbers(engine) == []
    assert await notes.run(some(1)) == 1


async def test_a_full_disk_is_an_error_and_leaves_nothing(
    engine: AsyncEngine, notes: DirectInsert, drivers: list[DirectConnection]
) -> None:
    await notes.run(some(1))
    [pages] = await drivers[0].send(lambda db: db.execute("PRAGMA page_count").fetchone())
    await drivers[0].send(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))
    large = [(number, "x" * 4096) for number in range(2, 60)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await notes.run(large)
    assert await numbers(engine) == [1]
    await drivers[0].send(lambda db: db.execute("PRAGMA max_page_count = 100000"))
    assert await notes.run(large) == len(large)


async def test_a_file_that_may_only_be_read_is_an_error_and_holds_nobody_up(
    engine: AsyncEngine, notes: DirectInsert, drivers: list[DirectConnection]
) -> None:
    await notes.run(some(1))
    await drivers[0].send(lambda db: db.execute("PRAGMA query_only = ON"))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await notes.run(some(2))
    await write_one(engine, 3)
    await drivers[0].send(lambda db: db.execute("PRAGMA query_only = OFF"))
    assert await notes.run(some(2)) == 1


async def test_it_stands_in_line_with_the_engines_writers_and_goes_first(
    engine: AsyncEngine, notes: DirectInsert
) -> None:
    done: list[str] = []

    async def insert() -> None:
        assert await notes.run(some(2)) == 1
        done.append("insert")

    async def write() -> None:
        await write_one(engine, 3)
        done.append("write")

    await notes.run(some(0))
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("INSERT INTO notes (number) VALUES (1)"))
        # The engine keeps two connections, and the second one is the insert's.
        waiting = [asyncio.create_task(insert())]
        await anyio.wait_all_tasks_blocked()
        assert done == []
    waiting.append(asyncio.create_task(write()))
    await asyncio.gather(*waiting)
    assert done == ["insert", "write"]
    assert await numbers(engine) == [0, 1, 2, 3]


async def test_who_leaves_keeps_the_others_out_until_the_thread_is_done(
    engine: AsyncEngine, notes: DirectInsert, drivers: list[DirectConnection]
) -> None:
    await notes.run(some(0))
    with kept_busy(drivers[0]):
        leaving = asyncio.create_task(notes.run(some(1)))
        await anyio.wait_all_tasks_blocked()
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        others = asyncio.create_task(write_one(engine, 2))
        await anyio.wait_all_tasks_blocked()
        assert not others.done()
    await others
    assert await numbers(engine) == [0, 1, 2]
    # Its connection is free again, its turn was given on once.
    await asyncio.gather(notes.run(some(3)), write_one(engine, 4))
    assert await numbers(engine) == [0, 1, 2, 3, 4]


async def test_closing_waits_for_what_is_under_way_and_gives_everything_back(
    engine: AsyncEngine, drivers: list[DirectConnection]
) -> None:
    async with opened(engine) as notes:
        await notes.run(some(0))
        with kept_busy(drivers[0]):
            writing = asyncio.create_task(notes.run(some(1)))
            await anyio.wait_all_tasks_blocked()
            closing = asyncio.create_task(notes.aclose())
            await anyio.wait_all_tasks_blocked()
            assert not closing.done()
        await closing
        assert await writing == 1
    # Both connections are there for others, and are as patient as ever.
    async with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            assert await connection.scalar(text("PRAGMA busy_timeout")) == PATIENT_S * 1000
