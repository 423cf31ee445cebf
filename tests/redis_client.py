"""A client of Redis for tests: to flush, to look, to configure. The product has its own way there."""

from contextlib import closing
from itertools import count
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.asyncio import Redis

WORKERS = 16
"""A worker's own database has a number below it; those it hands out follow in steps of it."""

MOST_HANDED_OUT = 60

_handed_out = count()


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client whose waits are bounded. Close it with ``aclose()``."""
    return Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, protocol=2)


def fresh_redis(redis_url: str) -> str:
    """Empty a database of the worker's server that nobody else uses now; return its URL.

    Applications that shared one would find each other's usage where it waits for the database.
    """
    parts = urlsplit(redis_url)
    number = int(parts.path.removeprefix("/")) + WORKERS * (1 + next(_handed_out) % MOST_HANDED_OUT)
    url = urlunsplit(parts._replace(path=f"/{number}"))
    with closing(redis.Redis.from_url(url)) as client:
        client.flushdb()
    return url
