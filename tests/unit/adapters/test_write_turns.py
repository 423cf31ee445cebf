"""The line of a SQLite file's writers, alone and under real transactions."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as WaitedTooLong
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.engine import for_writing, open_engine
from backend.adapters.db.write_turns import WriteTurns
from tests.databases import sqlite_url

pytestmark = pytest.mark.anyio

PATIENT_S = 30.0


class Line:
    """Writers who note when they got in, and leave when told."""

    def __init__(self, turns: WriteTurns) -> None:
        self._turns = turns
        self.seen: list[str] = []

    async def writer(self, name: str, *, first: bool = False) -> None:
        await self._turns.take(first=first)
        self.seen.append(name)
        self._turns.end()


async def test_the_ledger_goes_first_but_never_twice_in_a_row() -> None:
    turns = WriteTurns(PATIENT_S)
    line = Line(turns)
    await turns.take(first=False)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(line.writer(f"other {number}"))
            group.create_task(line.writer(f"ledger {number}", first=True))
        await anyio.wait_all_tasks_blocked()
        turns.end()
    assert line.seen == ["ledger 0", "other 0", "ledger 1", "other 1", "ledger 2", "other 2"]


async def test_who_leaves_the_line_keeps_nobody_waiting() -> None:
    turns = WriteTurns(PATIENT_S)
    line = Line(turns)
    await turns.take(first=False)
    impatient = asyncio.create_task(line.writer("impatient"))
    late = asyncio.create_task(line.writer("late"))
    patient = asyncio.create_task(line.writer("patient"))
    await anyio.wait_all_tasks_blocked()
    impatient.cancel()
    await anyio.wait_all_tasks_blocked()
    turns.end()
    # The turn is given already, and its owner leaves before he knows.
    late.cancel()
    await patient
    assert line.seen == ["patient"]


async def test_nobody_stands_in_line_for_ever() -> None:
    turns = WriteTurns(0.01)
    await turns.take(first=False)
    with pytest.raises(WaitedTooLong):
        await turns.take(first=True)
    turns.end()
    await turns.take(first=False)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(sqlite_url(tmp_path), pool_size=8, timeout_s=PATIENT_S)
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("CREATE TABLE notes (number INTEGER)"))
    yield engine
    await engine.dispose()


async def test_writers_of_one_process_never_find_the_file_locked(engine: AsyncEngine) -> None:
    async def write(number: int) -> None:
        async with for_writing(engine, first=number % 2 == 0).begin() as connection:
            await connection.execute(text("PRAGMA busy_timeout = 0"))
            await connection.execute(text("INSERT INTO notes VALUES (:number)"), {"number": number})

    await asyncio.gather(*(write(number) for number in range(40)))
    async with engine.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM notes")) == 40


async def test_a_transaction_that_fails_gives_its_turn_back(engine: AsyncEngine) -> None:
    async def fail() -> None:
        async with for_writing(engine).begin() as connection:
            await connection.execute(text("INSERT INTO notes VALUES (1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("INSERT INTO notes VALUES (2)"))
    async with engine.begin() as connection:
        assert (await connection.scalars(text("SELECT number FROM notes"))).all() == [2]


async def test_readers_do_not_stand_in_line(engine: AsyncEngine) -> None:
    async with for_writing(engine).begin() as writer, engine.begin() as reader:
        await writer.execute(text("INSERT INTO notes VALUES (1)"))
        assert await reader.scalar(text("SELECT count(*) FROM notes")) == 0


async def test_two_engines_of_one_file_share_the_line(tmp_path: Path) -> None:
    """The ledger has connections of its own, and still comes first: it does not poll for SQLite's lock."""
    turns = WriteTurns(PATIENT_S)
    engines = [open_engine(sqlite_url(tmp_path), pool_size=2, timeout_s=PATIENT_S, turns=turns) for _ in range(2)]
    order: list[str] = []

    async def write(name: str, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))
            order.append(name)

    for engine in engines:
        # Connected, and idle in their pools: what is waited for below is the line alone.
        async with engine.connect(), engine.connect():
            pass
    async with for_writing(engines[0]).begin() as writer:
        await writer.execute(text("SELECT 1"))
        waiting = [asyncio.create_task(write("other", for_writing(engines[0])))]
        await anyio.wait_all_tasks_blocked()
        waiting.append(asyncio.create_task(write("ledger", for_writing(engines[1], first=True))))
        await anyio.wait_all_tasks_blocked()
        assert order == []
    await asyncio.gather(*waiting)
    assert order == ["ledger", "other"]
    for engine in engines:
        await engine.dispose()


async def test_a_turn_lasts_from_the_first_statement_to_the_commit_and_no_longer(engine: AsyncEngine) -> None:
    insert = text("INSERT INTO notes VALUES (1)")
    async with for_writing(engine).connect() as idle, for_writing(engine).connect() as done:
        # The one has begun and asked nothing yet, the other keeps its connection after its commit.
        await idle.begin()
        await done.execute(insert)
        await done.commit()
        async with asyncio.timeout(PATIENT_S / 2), for_writing(engine).begin() as connection:
            await connection.execute(insert)
        await idle.execute(insert)
        await idle.rollback()
        async with asyncio.timeout(PATIENT_S / 2), for_writing(engine).begin() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM notes")) == 2


async def test_who_waits_too_long_at_the_first_statement_is_told_so_and_holds_nobody_up(tmp_path: Path) -> None:
    engine = open_engine(sqlite_url(tmp_path), pool_size=2, timeout_s=0.05)
    async with for_writing(engine).begin() as connection:
        await connection.execute(text("CREATE TABLE notes (number INTEGER)"))
        async with for_writing(engine).connect() as late:
            with pytest.raises(WaitedTooLong):
                await late.execute(text("INSERT INTO notes VALUES (1)"))
            await late.rollback()
    async with for_writing(engine).begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM notes")) == 0
    await engine.dispose()
