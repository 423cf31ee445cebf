"""Rows for SQLite in one statement that is a transaction of its own, and one trip to a connection's thread.

Python lets go of its lock for each step that SQLite takes, and has to get it back afterwards: from an event loop that
is busy, which costs more than the step. So there is no statement a row here, no ``BEGIN``, no ``COMMIT``, and nothing
of the engine's machinery, which would take longer than SQLite does. The connections are the engine's, with its settings
but one: they do not wait for another process's lock. What never waits is not cut off half-way either, so that somebody
who was refused finds nothing written later.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from functools import cache, partial
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.sqlite_connection import DirectConnection
from backend.adapters.db.write_turns import line_of
from backend.domain.records import record

MOST_ROWS = 512
"""SQLite takes 32,766 values at once."""

_STEP = 16
_KIND = 0xFF
"""The part of an error's code that says what kind it is."""


@record(frozen=True, slots=True)
class _Line:
    """A connection that was taken out of the engine's pool, and its driver's side."""

    connection: AsyncConnection
    driver: DirectConnection
    patience_ms: int


class DirectInsert:
    """Inserts rows whose keys are not there yet.

    Args:
        engine: where its connections come from; they stay out of its pool until :meth:`aclose`. Among those who write
            in this process it goes first.
        table: takes the rows.
        columns: the table's, in the order of each row's values.
    """

    def __init__(self, engine: AsyncEngine, table: str, columns: Sequence[str]) -> None:
        self._engine = engine
        self._turns = line_of(engine)
        row = f"({', '.join('?' * len(columns))})"

        @cache
        def statement(rows: int) -> str:
            into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608  # no values
            return into + ", ".join([row] * rows) + " ON CONFLICT DO NOTHING"

        self._statement = statement
        self._idle: list[_Line] = []
        self._under_way: set[asyncio.Future[int]] = set()

    async def run(self, rows: Sequence[Collection[Any]]) -> int | None:
        """Insert rows and commit; return how many were not there.

        Returns:
            ``None`` when nothing was written: another process has the file's lock, or there are too many rows.

        Raises:
            sqlite3.Error: the file does not take them.
            sqlalchemy.exc.SQLAlchemyError, OSError: it cannot be opened, or another writer does not finish in time.
        """
        if len(rows) > MOST_ROWS:
            return None
        line = self._idle.pop() if self._idle else await self._opened()
        try:
            await self._turns.take(first=True)
        except BaseException:
            self._idle.append(line)
            raise
        written = line.driver.send(partial(_inserted, *self._filled(rows)))
        self._under_way.add(written)
        written.add_done_callback(partial(self._landed, line))
        try:
            return await asyncio.shield(written)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & _KIND == sqlite3.SQLITE_BUSY:
                return None
            raise

    async def aclose(self) -> None:
        """Give the connections back to the engine, as they were."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        while self._idle:
            line = self._idle.pop()
            await line.driver.send(partial(_wait_for_locks, for_ms=line.patience_ms))
            await line.connection.close()

    async def _opened(self) -> _Line:
        connection = await self._engine.connect()
        try:
            raw = await connection.get_raw_connection()
            driver = cast("DirectConnection", raw.driver_connection)
            return _Line(connection, driver, await driver.send(partial(_wait_for_locks, for_ms=0)))
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise

    def _filled(self, rows: Sequence[Collection[Any]]) -> tuple[str, list[Any]]:
        """Return a statement and its values.

        The driver keeps statements by their text, so there are not to be too many: a large batch is filled up with its
        last row, which is there by then.
        """
        missing = -len(rows) % _STEP if len(rows) > _STEP else 0
        filled = [*rows, *[rows[-1]] * missing]
        return self._statement(len(filled)), [value for row in filled for value in row]

    def _landed(self, line: _Line, written: "asyncio.Future[int]") -> None:
        self._under_way.discard(written)
        self._idle.append(line)
        self._turns.end()


def _inserted(statement: str, values: list[Any], connection: sqlite3.Connection) -> int:
    return connection.execute(statement, values).rowcount


def _wait_for_locks(connection: sqlite3.Connection, *, for_ms: int) -> int:
    """Change how long a connection waits for another process's lock; return how long it did."""
    [waited_ms] = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {for_ms:d}")
    return int(waited_ms)
