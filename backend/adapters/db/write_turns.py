"""Whose turn it is to write to a SQLite file, within one process.

SQLite lets one writer in at a time, and has the others try again and again, with pauses that grow to a tenth of a
second; whoever comes at the right moment wins. Here they stand in line instead. The ledger goes first, since callers
wait for it, but never twice in a row while somebody else waits: it is held up by one other transaction at the most,
and the others by one batch of it each.

A turn is taken when a transaction's first statement goes to the file, and ends with its commit or its rollback; where
neither comes to pass, when its connection goes back to the pool.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import TimeoutError as WaitedTooLong
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

if TYPE_CHECKING:
    from backend.adapters.db.sqlite_connection import DirectConnection

WRITES = "forecourt_writes"
"""Execution option of a transaction that writes: ``True``, or ``FIRST``."""

FIRST = "first"

_TURN = "forecourt_turn"
_TURNS = "forecourt_turns"


class WriteTurns:
    """The line of one file's writers; for one event loop.

    Args:
        timeout_s: how long one may stand in line.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._first: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        self._is_taken = False
        self._was_first = False

    async def take(self, *, first: bool) -> None:
        """Return when it is the caller's turn, who has to end it.

        Raises:
            sqlalchemy.exc.TimeoutError: it did not come in time.
        """
        if not self._is_taken:
            self._is_taken, self._was_first = True, first
            return
        turn = asyncio.get_running_loop().create_future()
        (self._first if first else self._others).append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # It came at the very moment when nobody waited for it any more.
                self.end()
            if isinstance(error, TimeoutError):
                raise WaitedTooLong("another writer did not finish in time") from error
            raise

    def end(self) -> None:
        """Let the next one in."""
        while self._first or self._others:
            first = bool(self._first) and not (self._was_first and self._others)
            turn = (self._first if first else self._others).popleft()
            if not turn.done():
                self._was_first = first
                turn.set_result(None)
                return
        self._is_taken = False


def line_of(engine: AsyncEngine) -> WriteTurns:
    """Return the line in which an engine's writers stand."""
    return cast("WriteTurns", engine.sync_engine.get_execution_options()[_TURNS])


def stand_in_line(engine: AsyncEngine, turns: WriteTurns) -> None:
    """Make the writers of an engine take turns, each from before its ``BEGIN``; engines of one file share the line."""

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        driver = cast("DirectConnection", connection.connection.driver_connection)
        if not writes:
            driver.begin_with("BEGIN")
            return
        held: dict[Any, Any] = connection.connection.info

        async def take() -> None:
            if _TURN not in held:
                await turns.take(first=writes == FIRST)
                held[_TURN] = turns

        driver.begin_with("BEGIN IMMEDIATE", before=take, after=lambda: end(held))

    def end(held: dict[Any, Any]) -> None:
        taken: WriteTurns | None = held.pop(_TURN, None)
        if taken is not None:
            taken.end()

    def checkin(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        end(entry.info)

    engine.sync_engine.update_execution_options(**{_TURNS: turns})
    event.listen(engine.sync_engine, "begin", begin)
    event.listen(engine.sync_engine, "checkin", checkin)
