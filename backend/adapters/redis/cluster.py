"""Redis Cluster: each call goes to the node that holds its tenant, over a connection of its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from backend.adapters.redis.address import RedisAddress
from backend.adapters.redis.dialing import tls_options
from backend.adapters.redis.line import OnPrimary, Reply, Script, Value
from backend.adapters.single_flight import SingleFlight

MOST_CONNECTIONS = 64


class ClusterLine:
    """Implements ``Line`` over redis-py's client of Redis Cluster, which knows what lives on which node.

    Args:
        address: of some nodes; the others are found through them.
        timeout_s: bound on a whole call.
        max_connections: bound on connections; beyond it callers queue within their bound.
    """

    def __init__(self, address: RedisAddress, timeout_s: float, *, max_connections: int = MOST_CONNECTIONS) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._turns = asyncio.Semaphore(max_connections)
        self._opened: RedisCluster | None = None
        self._opening = SingleFlight()

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet."""
        async with self._bounded() as client:
            try:
                reply = await client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                # A new server, a failover or SCRIPT FLUSH. EVAL runs it and keeps it.
                reply = await client.eval(script.source, len(keys), *keys, *args)
        return cast("Reply", reply)

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key."""
        async with self._bounded() as client:
            # One GET each: on Redis Cluster the keys may live apart.
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            return cast("Reply", await pipeline.execute())

    async def write(self, key: str, value: str, ttl_s: int) -> None:
        """Set a plain value."""
        async with self._bounded() as client:
            await client.set(key, value, ex=ttl_s)

    async def ping(self) -> None:
        """Return when the server answers."""
        async with self._bounded() as client:
            await client.ping()

    async def primaries(self) -> Sequence[OnPrimary]:
        """Return a way to each node that holds slots, as far as the cluster is known now."""
        async with self._bounded() as client:
            return [partial(self._run_on, node) for node in client.get_primaries()]

    async def aclose(self) -> None:
        """Close the client."""
        if self._opened is not None:
            await self._opened.aclose()

    async def _run_on(self, node: ClusterNode, script: Script, args: Sequence[Value]) -> Reply:
        async with self._bounded() as client:
            try:
                reply = await client.execute_command("EVALSHA", script.digest, 0, *args, target_nodes=node)
            except NoScriptError:
                reply = await client.execute_command("EVAL", script.source, 0, *args, target_nodes=node)
        return cast("Reply", reply)

    @asynccontextmanager
    async def _bounded(self) -> AsyncIterator[RedisCluster]:
        async with asyncio.timeout(self._timeout_s), self._turns:
            if self._opened is None:
                await self._opening.run("cluster", self._open)
            yield cast("RedisCluster", self._opened)

    async def _open(self) -> None:
        """Make a client that knows the nodes. Once for all who wait: the library's own first look-up is not safe."""
        address = self._address
        client = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
            username=address.username,
            password=address.password,
            ssl=address.is_tls,
            max_connections=self._max_connections,
            socket_timeout=None,
            socket_connect_timeout=self._timeout_s,
            # Scripts that spend are not repeated behind our back: the first may have been executed.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            driver_info=None,
            **tls_options(address),
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.initialize()
        except BaseException:
            await client.aclose()
            raise
        self._opened = client
