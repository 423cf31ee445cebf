"""One statement, prepared on connections of its own: a run costs a tenth of what it does through an engine.

What runs hundreds of times a second is worth it: the engine's own machinery (a greenlet, a pool's bookkeeping, a
compiled statement's context, a cursor) takes longer than all that the server does meanwhile. The connections are the
engine's, so they act in the application's role and with its bounds. Each run is a transaction of its own.
"""

from dataclasses import dataclass
from itertools import count
from typing import cast

from psycopg import errors, generators
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.bounded_connection import BoundedConnection

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection that was taken out of the engine's pool, and the driver's side of it."""

    connection: AsyncConnection
    driver: BoundedConnection

    async def ask(self, name: bytes, values: list[bytes]) -> PGresult:
        """Run what is prepared under a name."""
        self.driver.pgconn.send_query_prepared(name, values)
        return await self._answer()

    async def prepare(self, name: bytes, statement: bytes) -> None:
        """Have the server keep a statement."""
        self.driver.pgconn.send_prepare(name, statement)
        await self._answer()

    async def _answer(self) -> PGresult:
        results: list[PGresult] = await self.driver.wait(generators.execute(self.driver.pgconn))
        [result] = results
        if result.status != ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
        return result

    def is_idle(self) -> bool:
        """Whether the server takes a further statement, as far as this side knows."""
        return not self.driver.is_cut() and self.driver.pgconn.transaction_status == TransactionStatus.IDLE

    async def hang_up(self) -> None:
        self.driver.hang_up()
        await self.connection.invalidate()
        await self.connection.close()


class PreparedStatement:
    """A statement of PostgreSQL with one parameter, as many at once as there are callers.

    Args:
        engine: where its connections come from; they stay out of its pool until :meth:`aclose`.
        statement: with ``$1``; it returns no rows.
    """

    def __init__(self, engine: AsyncEngine, statement: str) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._statement = statement.encode()
        # Its own: a connection that was given back still holds what another one prepared.
        self._name = b"forecourt_%d" % next(_numbers)
        self._idle: list[_Line] = []

    async def run(self, value: bytes) -> int:
        """Run it with a text as its parameter, and commit; return how many rows it wrote.

        Raises:
            psycopg.Error: the server refuses it, or cannot be reached any more.
            sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError: it cannot be reached.
        """
        line = await self._taken()
        try:
            result = await line.ask(self._name, [value])
        except BaseException:
            await self._give_back(line)
            raise
        self._idle.append(line)
        return cast("int", result.command_tuples)

    async def aclose(self) -> None:
        """Give the connections back to the engine."""
        while self._idle:
            await self._idle.pop().connection.close()

    async def _taken(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if line.is_idle():
                return line
            await line.hang_up()
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        line = _Line(connection, cast("BoundedConnection", raw.driver_connection))
        try:
            await line.prepare(self._name, self._statement)
        except BaseException:
            await line.hang_up()
            raise
        return line

    async def _give_back(self, line: _Line) -> None:
        if line.is_idle():
            # It was the statement that failed, not the connection.
            self._idle.append(line)
        else:
            await line.hang_up()
