"""One statement, prepared on connections of its own: a run costs a tenth of what it does through an engine.

What runs hundreds of times a second is worth it: the engine's own machinery (a greenlet, a pool's bookkeeping, a
compiled statement's context, a cursor) takes longer than all that the server does meanwhile. So do the driver's waits,
which begin to watch the socket and end it again each time. The connections are the engine's, so they act in the
application's role and with its bounds. Each run is a transaction of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

from psycopg.pq.abc import PGresult
from sqlalchemy.exc import TimeoutError as WaitedTooLong
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.statement_line import StatementLine

if TYPE_CHECKING:
    from sqlalchemy import QueuePool

T = TypeVar("T")
_numbers = count(1)


class PreparedStatement:
    """A statement of PostgreSQL.

    Args:
        engine: where its connections come from; they stay out of its pool until :meth:`aclose`.
        statement: with ``$1`` and so on for its parameters.
        at_once: on how many connections it runs at the same time; by default on as many as there are callers.
        is_binary: whether its parameters come in the binary form of their types; by default they are texts.
    """

    def __init__(
        self, engine: AsyncEngine, statement: str, *, at_once: int | None = None, is_binary: bool = False
    ) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._statement = statement.encode()
        # Its own: a connection that was given back still holds what another one prepared.
        self._name = b"forecourt_%d" % next(_numbers)
        self._idle: list[StatementLine] = []
        self._is_binary = is_binary
        self._turns = None if at_once is None else asyncio.Semaphore(at_once)

    async def run(self, *values: bytes) -> int:
        """Run it with these parameters, and commit; return how many rows it wrote.

        Raises:
            psycopg.Error: the server refuses it, or cannot be reached any more.
            sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError: it cannot be reached, or no connection is free.
        """
        return await self._ask(values, _written)

    async def fetch(self, *values: bytes) -> list[tuple[Any, ...]]:
        """Run it with these parameters; return its rows.

        Raises:
            psycopg.Error, sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError: as :meth:`run`.
        """
        return await self._ask(values, StatementLine.rows_of)

    async def aclose(self) -> None:
        """Give the connections back to the engine."""
        while self._idle:
            await self._idle.pop().give_back()

    async def _ask(self, values: Sequence[bytes], read: Callable[[StatementLine, PGresult], T]) -> T:
        if self._turns is None:
            return await self._ask_now(values, read)
        await self._its_turn(self._turns)
        try:
            return await self._ask_now(values, read)
        finally:
            self._turns.release()

    async def _its_turn(self, turns: asyncio.Semaphore) -> None:
        """Wait for one of its connections as long as for one of the engine's."""
        if not turns.locked():
            await turns.acquire()
            return
        try:
            async with asyncio.timeout(cast("QueuePool", self._engine.pool).timeout()):
                await turns.acquire()
        except TimeoutError as error:
            raise WaitedTooLong("no connection for a statement became free in time") from error

    async def _ask_now(self, values: Sequence[bytes], read: Callable[[StatementLine, PGresult], T]) -> T:
        line = await self._taken()
        try:
            answer = read(line, await line.ask(self._name, values, is_binary=self._is_binary))
        except BaseException:
            await self._give_back(line)
            raise
        self._idle.append(line)
        return answer

    async def _taken(self) -> StatementLine:
        while self._idle:
            line = self._idle.pop()
            if line.is_idle():
                return line
            await line.hang_up()
        line = await StatementLine.open(self._engine)
        try:
            await line.prepare(self._name, self._statement)
        except BaseException:
            await line.hang_up()
            raise
        return line

    async def _give_back(self, line: StatementLine) -> None:
        if line.is_idle():
            # It was the statement that failed, not the connection.
            self._idle.append(line)
        else:
            await line.hang_up()


def _written(_line: StatementLine, result: PGresult) -> int:
    return cast("int", result.command_tuples)
