"""A connection that runs prepared statements, one at a time, and whose socket is watched for as long as it is open.

libpq holds the protocol; here stands only when to read and to write. What arrives while nothing was asked can only be
the server's farewell, so the connection is known to be over before anybody asks.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from psycopg import DataError, Error, OperationalError, errors
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.bounded_connection import BoundedConnection

_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class StatementLine:
    """A connection that was taken out of the engine's pool, and the driver's side of it."""

    def __init__(self, connection: AsyncConnection, driver: BoundedConnection) -> None:
        self._connection = connection
        self._driver = driver
        self._pgconn = driver.pgconn
        self._types = Transformer(driver)
        self._loop = asyncio.get_running_loop()
        self._socket = driver.pgconn.socket
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[PGresult] | None = None
        self._late_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_watched = True
        self._loop.add_reader(self._socket, self._read)

    @classmethod
    async def open(cls, engine: AsyncEngine) -> "StatementLine":
        """Take a connection out of the engine's pool.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError: there is none to be had.
        """
        connection = await engine.connect()
        raw = await connection.get_raw_connection()
        return cls(connection, cast("BoundedConnection", raw.driver_connection))

    async def ask(self, name: bytes, values: Sequence[bytes], *, is_binary: bool = False) -> PGresult:
        """Run what is prepared under a name. Values are texts, or in the binary form of their types.

        Raises:
            psycopg.Error: the server refuses it, or the connection is lost; also when it does not answer in time.
        """
        if is_binary:
            self._pgconn.send_query_prepared(name, values, [Format.BINARY] * len(values))
        elif any(b"\0" in value for value in values):
            # libpq takes a zero for the text's end: what was asked would be something else.
            raise DataError("PostgreSQL holds no text with a zero in it")
        else:
            self._pgconn.send_query_prepared(name, values)
        return await self._answered()

    async def prepare(self, name: bytes, statement: bytes) -> None:
        """Have the server keep a statement.

        Raises:
            psycopg.Error: as :meth:`ask`.
        """
        self._pgconn.send_prepare(name, statement)
        await self._answered()

    def rows_of(self, result: PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of an answer, their values as the driver reads them."""
        self._types.set_pgresult(result)
        return self._types.load_rows(0, result.ntuples, tuple)

    def is_idle(self) -> bool:
        """Whether the server takes a further statement, as far as this side knows."""
        return self._is_watched and self._pgconn.transaction_status == TransactionStatus.IDLE

    async def give_back(self) -> None:
        """Return the connection to the engine."""
        self._unwatch()
        await self._connection.close()

    async def hang_up(self) -> None:
        """End the connection."""
        self._unwatch()
        self._driver.hang_up()
        await self._connection.invalidate()
        await self._connection.close()

    async def _answered(self) -> PGresult:
        self._results = []
        answer = self._answer = self._loop.create_future()
        self._late_at_s = self._loop.time() + self._driver.answer_within_s
        if self._timer is None:
            # One for many: to set one and call it off for each costs more than to send what is asked.
            self._timer = self._loop.call_at(self._late_at_s, self._look)
        try:
            if self._pgconn.flush():
                # More than the socket takes at once.
                self._loop.add_writer(self._socket, self._write)
            result: PGresult = await answer
        except asyncio.CancelledError:
            self._unwatch()
            self._driver.hang_up()
            raise
        finally:
            self._answer = None
        if result.status not in _FINE:
            raise errors.error_from_result(result)
        return result

    def _look(self) -> None:
        """Look whether an answer is overdue."""
        self._timer = None
        if self._answer is None:
            return
        if self._loop.time() < self._late_at_s:
            self._timer = self._loop.call_at(self._late_at_s, self._look)
        else:
            self._driver.hang_up()

    def _write(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except Error as error:
            self._lost(error)

    def _read(self) -> None:
        answer = self._answer
        if answer is None:
            self._unwatch()
            return
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    self._end(answer)
                    return
                self._results.append(result)
        except Error as error:
            self._lost(error)

    def _lost(self, error: Error) -> None:
        # At once: libpq has closed the socket, and its number may be another's in a moment.
        self._unwatch()
        answer = self._answer
        if answer is None or answer.done():
            return
        if self._results:
            # The server said why before it hung up.
            self._end(answer)
        else:
            answer.set_exception(error)

    def _end(self, answer: "asyncio.Future[PGresult]") -> None:
        if answer.done():
            return
        if self._results:
            answer.set_result(self._results[-1])
        else:
            answer.set_exception(OperationalError("the server gave no answer"))

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_watched:
            self._is_watched = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
