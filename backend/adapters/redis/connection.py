"""The Redis client: one pool for the life of the process, with a bound on its size and on every wait."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str, timeout_s: float, *, max_connections: int = 64) -> Redis:
    """Return a client; nothing is connected until the first command. Close it with ``aclose()``.

    The client itself bounds no answer: whoever uses it does, with ``asyncio.timeout`` around the whole call, as
    :class:`~backend.adapters.redis.scripts.ScriptRunner` does. With redis-py's ``socket_timeout`` every write goes
    through ``asyncio.wait_for``, which on Python 3.11 can lose a cancellation, and with it the bound around it; it
    also costs a task each time.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database as redis-py reads them.
        timeout_s: bound on connecting and on waiting for a free connection.
        max_connections: bound on connections; beyond it callers queue for ``timeout_s``.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=None,
        socket_connect_timeout=timeout_s,
        # Scripts that spend are not repeated behind our back: the first may have been executed.
        retry=Retry(NoBackoff(), 0),
        # Version 2 has all that is used here and needs no handshake, which older servers and proxies refuse.
        protocol=2,
        driver_info=None,
    )
    return Redis.from_pool(pool)
