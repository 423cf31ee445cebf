"""One statement, prepared on connections of its own: a run costs a tenth of what it does through an engine.

What runs hundreds of times a second is worth it: the engine's own machinery (a greenlet, a pool's bookkeeping, a
compiled statement's context, a cursor) takes longer than all that the server does meanwhile. So do the driver's waits,
which begin to watch the socket and end it again each time. The connections are the engine's, so they act in the
application's role and with its bounds. Each run is a transaction of its own.
"""

from itertools import count
from typing import cast

from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.statement_line import StatementLine

_numbers = count(1)


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
        self._idle: list[StatementLine] = []

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
            await self._idle.pop().give_back()

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
