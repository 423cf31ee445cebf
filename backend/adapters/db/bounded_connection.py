"""PostgreSQL connections whose every wait ends, also when the server is silent.

``statement_timeout`` is the server's: one that hangs, or whose host is gone, never says that time is up. So the client
hangs up by itself a moment later. A caller who leaves hangs up at once: asking a silent server to cancel would take
seconds more, and the server ends the statement by its own bound.
"""

import asyncio
import select
import socket
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.waiting import wait_async

T = TypeVar("T")

GRACE_S = 0.3
"""How much longer than the server's own bound: its word is the better one, and keeps the connection."""


WAKE_EVERY_S = 5.0
"""The driver looks up now and then for what the socket does not tell. Here the timer below does that."""


class BoundedConnection(AsyncConnection[Any]):
    """A connection that hangs up when the server does not answer within ``answer_within_s``."""

    answer_within_s = 2.0 + GRACE_S

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = WAKE_EVERY_S,
        timeout: float | None = None,  # noqa: ASYNC109  # the driver's own signature
    ) -> T:
        """Wait for the server, within the bound."""
        overdue = asyncio.get_running_loop().call_later(self.answer_within_s, self.hang_up)
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self.hang_up()
            raise
        finally:
            overdue.cancel()

    def hang_up(self) -> None:
        """End the connection under whoever waits on it, who then learns that it is lost."""
        if self.pgconn.status != 0:
            return
        # A duplicate: the descriptor itself stays the driver's, which closes it.
        with socket.fromfd(self.pgconn.socket, socket.AF_UNIX, socket.SOCK_STREAM) as line:
            try:
                line.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def is_cut(self) -> bool:
        """Whether the server has hung up, as far as this side knows. On an idle connection nothing else arrives."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return bool(poll.poll(0))


async def connect(*args: Any, timeout_s: float, **options: Any) -> BoundedConnection:
    """Connect, within the bound also where the driver's own is longer."""
    async with asyncio.timeout(timeout_s + GRACE_S):
        connection = await BoundedConnection.connect(*args, **options)
    connection.answer_within_s = timeout_s + GRACE_S
    return connection
