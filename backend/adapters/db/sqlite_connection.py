"""SQLite connections that go to their thread as seldom as can be.

The driver keeps each connection in a thread, and sends every call there: to open a cursor, to execute, to fetch, to
close the cursor. The way there and back costs the event loop more than most statements cost SQLite, and others wait
for the file's lock meanwhile. Here a statement is one trip, with its rows and the ``BEGIN`` before it, and what needs
no answer is no trip at all: a statement with the execution option ``UNANSWERED`` goes along with the next one, or with
the commit, which then is where it fails.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Self, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
UNANSWERED = "forecourt_unanswered"
"""Execution option of a statement that returns nothing, and whose outcome is that it does not fail."""

_ROWS_AT_A_TIME = 64


class DirectCursor:
    """A cursor as SQLAlchemy uses one: a statement, then all of its rows."""

    def __init__(self, connection: "DirectConnection") -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, operation: str, parameters: Sequence[Any] = ()) -> None:
        """Execute a statement and fetch its rows."""
        if self._connection.puts_off(operation, parameters):
            return
        await self._take(lambda cursor: cursor.execute(operation, parameters))

    async def executemany(self, operation: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Execute a statement that returns no rows once for each set of parameters."""
        await self._take(lambda cursor: cursor.executemany(operation, parameters))

    async def fetchall(self) -> list[Any]:
        """Return the rows, which are here already."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Forget the rows: the database's own cursor is closed."""
        self._rows = []

    async def _take(self, execute: Callable[[sqlite3.Cursor], object]) -> None:
        def executed(connection: sqlite3.Connection) -> tuple[Any, list[Any], int, int | None]:
            cursor = connection.cursor()
            try:
                execute(cursor)
                rows = cursor.fetchall() if cursor.description else []
                return cursor.description, rows, cursor.rowcount, cursor.lastrowid
            finally:
                cursor.close()

        found = await self._connection.ask(executed)
        self.description, self._rows, self.rowcount, self.lastrowid = found


class DirectConnection(aiosqlite.Connection):
    """A connection whose transactions begin together with their first statement."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=_ROWS_AT_A_TIME)
        # As SQLAlchemy does with the driver's own: a connection that nobody closed must not keep the process alive.
        self._thread.daemon = True
        self._first: str | None = None
        self._before: Callable[[], Awaitable[None]] | None = None
        self._after: Callable[[], None] | None = None
        self._is_next_unanswered = False
        self._put_off: list[tuple[str, Sequence[Any]]] = []
        # The first counted here, the second in the thread.
        self._asked = 0
        self._answered = 0

    def cursor(self) -> DirectCursor:  # type: ignore[override]
        """Return a cursor; no trip."""
        return DirectCursor(self)

    def begin_with(
        self,
        statement: str,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        """Execute ``statement``, which begins a transaction, right before the next one.

        Args:
            statement: begins it.
            before: is waited for then.
            after: is called when the transaction is over.
        """
        self._first, self._before, self._after = statement, before, after

    def leave_next_unanswered(self) -> None:
        """Say that nobody needs to know what comes of the next statement, as long as it does not fail."""
        self._is_next_unanswered = True

    def puts_off(self, operation: str, parameters: Sequence[Any]) -> bool:
        """Whether a statement goes along with the next trip."""
        is_put_off, self._is_next_unanswered = self._is_next_unanswered, False
        if is_put_off:
            self._put_off.append((operation, parameters))
        return is_put_off

    def send(self, question: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Have a question answered that is no part of a transaction, whether or not somebody goes on waiting for it.

        It is over when the future is done, and not before: who waits for it has to shield it.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((answer, partial(question, self._conn)))
        return answer

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run what needs the database in the connection's thread, and return what it does."""
        if self._first is not None and self._before is not None:
            await self._before()
        first, self._first = self._first, None
        put_off, self._put_off = self._put_off, []

        def answer() -> T:
            try:
                if first is not None:
                    self._conn.execute(first)
                for operation, parameters in put_off:
                    self._conn.execute(operation, parameters)
                return question(self._conn)
            finally:
                self._answered += 1

        self._asked += 1
        answered: T = await self._execute(answer)  # type: ignore[no-untyped-call]
        return answered

    async def commit(self) -> None:
        """Commit, unless no statement has begun anything."""
        if self._put_off or self._is_anything_open():
            await self.ask(sqlite3.Connection.commit)
        self._end()

    async def rollback(self) -> None:
        """Roll back, unless no statement has begun anything."""
        self._first = None
        self._put_off = []
        if self._is_anything_open():
            await self.ask(sqlite3.Connection.rollback)
        self._end()

    def _end(self) -> None:
        after, self._after = self._after, None
        self._first = self._before = None
        if after is not None:
            after()

    def _is_anything_open(self) -> bool:
        # While the thread still works for somebody who has left, what it says of itself does not count.
        return self._asked != self._answered or self.in_transaction


def connect(*args: Any, **options: Any) -> DirectConnection:
    """Return a connection to await, for SQLAlchemy's ``async_creator_fn``; takes what ``sqlite3.connect`` takes."""
    return DirectConnection(lambda: sqlite3.connect(*args, **options))


def put_off_unanswered(engine: AsyncEngine) -> None:
    """Let statements of an engine be put off that say they may be."""

    def note(connection: Connection, _cursor: object, _sql: str, _values: object, context: Any, _many: bool) -> None:
        if context is not None and context.execution_options.get(UNANSWERED, False):
            cast("DirectConnection", connection.connection.driver_connection).leave_next_unanswered()

    event.listen(engine.sync_engine, "before_cursor_execute", note)
