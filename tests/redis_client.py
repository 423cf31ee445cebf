"""A client of Redis for tests: to flush, to look, to configure. The product has its own way there."""

from redis.asyncio import Redis


def connect(url: str, timeout_s: float) -> Redis:
    """Return a client whose waits are bounded. Close it with ``aclose()``."""
    return Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, protocol=2)
