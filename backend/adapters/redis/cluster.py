"""Redis Cluster: each call goes to the node that holds its tenant, over the one connection that all share.

redis-py knows which node that is, and finds out anew when slots move and nodes fail. It uses a connection for each
call, though, so it carries only what is rare, and what a node has sent away or left unanswered: then it follows the
cluster to where it went. Everything else goes over one line to each node.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import cast

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from backend.adapters.redis.address import Kind, RedisAddress
from backend.adapters.redis.coalescing import CoalescingLine, RefusedByServer
from backend.adapters.redis.dialing import Dialer, tls_options
from backend.adapters.redis.line import OUTAGES, OnPrimary, Reply, Script, Value
from backend.adapters.single_flight import SingleFlight

MOST_CONNECTIONS = 64

SENT_AWAY = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")
"""Errors of a node that has executed nothing, because another one may be the right one."""


class ClusterLine:
    """Implements ``Line`` over a line to each node, and redis-py's client of Redis Cluster, which knows the nodes.

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
        self._lines: dict[str, CoalescingLine] = {}
        # By the names of nodes that did not answer: until one does again, calls to it go where they may be sent on.
        self._in_doubt: set[str] = set()

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet, or has handed the keys over."""
        late_at_s = asyncio.get_running_loop().time() + self._timeout_s
        node = self._node_of(keys)
        if node is not None and node.name not in self._in_doubt:
            try:
                return await self._line_to(node).run(script, keys, args)
            except RefusedByServer as refusal:
                if not str(refusal).startswith(SENT_AWAY):
                    raise
            except OUTAGES:
                self._in_doubt.add(node.name)
                raise
        async with self._bounded(late_at_s) as client:
            try:
                reply = await client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                # A new server, a failover or SCRIPT FLUSH. EVAL runs it and keeps it.
                reply = await client.eval(script.source, len(keys), *keys, *args)
        if (found := self._node_of(keys)) is not None:
            self._in_doubt.discard(found.name)
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
        """Close the client, and the lines."""
        for line in self._lines.values():
            await line.aclose()
        if self._opened is not None:
            await self._opened.aclose()

    def _node_of(self, keys: Sequence[str | bytes]) -> ClusterNode | None:
        """Return the primary that holds the keys, as far as the cluster is known by now."""
        if self._opened is None or not keys:
            return None
        nodes = self._opened.nodes_manager.slots_cache.get(self._opened.keyslot(keys[0]))
        return nodes[0] if nodes else None

    def _line_to(self, node: ClusterNode) -> CoalescingLine:
        line = self._lines.get(node.name)
        if line is None:
            address = replace(self._address, kind=Kind.SERVER, hosts=((node.host, int(node.port)),))
            line = self._lines[node.name] = CoalescingLine(Dialer(address, self._timeout_s), self._timeout_s)
        return line

    async def _run_on(self, node: ClusterNode, script: Script, args: Sequence[Value]) -> Reply:
        async with self._bounded() as client:
            try:
                reply = await client.execute_command("EVALSHA", script.digest, 0, *args, target_nodes=node)
            except NoScriptError:
                reply = await client.execute_command("EVAL", script.source, 0, *args, target_nodes=node)
        return cast("Reply", reply)

    @asynccontextmanager
    async def _bounded(self, late_at_s: float | None = None) -> AsyncIterator[RedisCluster]:
        if late_at_s is None:
            late_at_s = asyncio.get_running_loop().time() + self._timeout_s
        async with asyncio.timeout_at(late_at_s), self._turns:
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
