"""Opens connections to one server: by host, by socket, or to whichever server Sentinel says is the primary."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from redis.asyncio import Sentinel, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from backend.adapters.redis.address import Kind, RedisAddress

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Dialer:
    """Opens a connection; who asks bounds the time.

    Args:
        address: of a server, a socket or Sentinels.
        timeout_s: bound on each question to a Sentinel.
    """

    def __init__(self, address: RedisAddress, timeout_s: float) -> None:
        self.address = address
        self._tls = _tls(address)
        self._sentinel = _sentinel(address, timeout_s) if address.kind is Kind.SENTINEL else None

    async def open(self, make: Callable[[], P]) -> P:
        """Connect a protocol.

        Raises:
            OSError, RedisError: nobody answers there.
        """
        loop = asyncio.get_running_loop()
        if self.address.kind is Kind.SOCKET:
            _, protocol = await loop.create_unix_connection(make, self.address.path)
            return protocol
        host, port = self.address.hosts[0]
        if self._sentinel is not None:
            # Asked anew each time: after a failover it is another one.
            host, port = await self._sentinel.discover_master(self.address.service)
        _, protocol = await loop.create_connection(make, host, port, ssl=self._tls)
        return protocol

    async def aclose(self) -> None:
        """Leave the Sentinels."""
        if self._sentinel is not None:
            for client in self._sentinel.sentinels:
                await client.aclose()


def tls_options(address: RedisAddress) -> dict[str, Any]:
    """Return what redis-py is told about TLS."""
    return {name: value for name, value in address.options.items() if name.startswith("ssl_")}


def _tls(address: RedisAddress) -> ssl.SSLContext | None:
    # redis-py reads certificates and keys; the connection itself is ours.
    return SSLConnection(**tls_options(address)).ssl_context.get() if address.is_tls else None


def _sentinel(address: RedisAddress, timeout_s: float) -> Sentinel:
    options: dict[str, object] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
    }
    if address.is_tls:
        options |= {"ssl": True, **tls_options(address)}
    return Sentinel(address.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # redis-py has no type
