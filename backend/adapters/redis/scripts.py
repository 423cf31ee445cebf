"""The one door to Redis: scripts run by their digest, within a bound, behind a breaker.

ScriptRunner     the door: a breaker before it, and every outage turned into one domain error
Line             what carries the calls
ClientLine       over redis-py, one connection a call: any kind of server
"""

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Protocol, cast

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError, RedisError

from backend.adapters.breaker import Breaker
from backend.adapters.memory.metrics import NullMetrics
from backend.domain.errors import EnforcementUnavailable

Value = str | bytes | int | float
Reply = list[bytes | int | None]

OUTAGES = (RedisError, OSError, TimeoutError)

PROBE_KEY = "fc:probe"
"""Written to find out whether the server takes writes: a replica, or a server without memory, only answers reads."""


class Script:
    """One ``.lua`` file of this package."""

    def __init__(self, name: str) -> None:
        self.source = files("backend.adapters.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Line(Protocol):
    """Carries calls to a server and answers back; each is bounded as a whole, the wait for a connection included.

    Every method raises one of ``OUTAGES`` when there is no answer within the bound. A script may have run then.
    """

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet."""
        ...

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key."""
        ...

    async def write(self, key: str, value: str, ttl_s: int) -> None:
        """Set a plain value."""
        ...

    async def ping(self) -> None:
        """Return when the server answers."""
        ...

    async def aclose(self) -> None:
        """Give all connections up."""
        ...


class ClientLine:
    """Implements ``Line`` over a client of redis-py.

    Args:
        client: its connections answer in bytes; see ``connect``. It is closed with the line.
        timeout_s: bound on a whole call.
    """

    def __init__(self, client: "Redis | RedisCluster", timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet."""
        async with asyncio.timeout(self._timeout_s):
            try:
                reply = await self._client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                # A new server, a failover or SCRIPT FLUSH. EVAL runs it and keeps it.
                reply = await self._client.eval(script.source, len(keys), *keys, *args)
        return cast("Reply", reply)

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key."""
        async with asyncio.timeout(self._timeout_s):
            # One GET each: on Redis Cluster the keys may live apart.
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            return cast("Reply", await pipeline.execute())

    async def write(self, key: str, value: str, ttl_s: int) -> None:
        """Set a plain value."""
        async with asyncio.timeout(self._timeout_s):
            await self._client.set(key, value, ex=ttl_s)

    async def ping(self) -> None:
        """Return when the server answers."""
        async with asyncio.timeout(self._timeout_s):
            await self._client.ping()

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.aclose()


class ScriptRunner:
    """The only way from these adapters to Redis, and so the one place where an outage becomes known.

    Args:
        line: what carries the calls, or a client of redis-py. It stays the caller's, who closes it.
        timeout_s: bound on a whole call, where a client is given.
        breaker: what has been known to be dead for a moment is not asked; by default one of its own.
    """

    def __init__(
        self, line: "Line | Redis | RedisCluster", timeout_s: float = 0.1, breaker: Breaker | None = None
    ) -> None:
        self._line: Line = ClientLine(line, timeout_s) if isinstance(line, Redis | RedisCluster) else line
        self.breaker = breaker or Breaker("redis", NullMetrics())

    async def run(
        self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value], *, writes: bool = True
    ) -> Reply:
        """Run a script; ``writes`` when its success shows that the server takes writes.

        Raises:
            EnforcementUnavailable: no answer within the bound. The script may have run nevertheless.
        """
        ticket = self.breaker.enter(may_try=writes)
        if ticket is None:
            raise EnforcementUnavailable(retry_after_s=1)
        try:
            reply = await self._line.run(script, keys, args)
        except OUTAGES as error:
            self.breaker.failed(ticket, error)
            raise EnforcementUnavailable(retry_after_s=1) from error
        except BaseException:
            self.breaker.gave_up(ticket)
            raise
        if writes:
            self.breaker.succeeded(ticket)
        return reply

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key.

        Raises:
            EnforcementUnavailable: no answer within the bound.
        """
        # An answer to a read says little: it neither tries an open breaker nor makes up for failed writes.
        ticket = self.breaker.enter(may_try=False)
        if ticket is None:
            raise EnforcementUnavailable(retry_after_s=1)
        try:
            return await self._line.read(keys)
        except OUTAGES as error:
            self.breaker.failed(ticket, error)
            raise EnforcementUnavailable(retry_after_s=1) from error

    async def answers(self) -> bool:
        """Whether the server takes calls now. Never raises, and asks nothing that is known to be dead."""
        if not self.breaker.is_closed:
            return False
        try:
            await self._line.ping()
        except OUTAGES:
            return False
        return True

    async def probe(self) -> bool:
        """Try an open breaker, if it has rested; return whether it is closed now. Never raises."""
        if self.breaker.is_closed:
            return True
        ticket = self.breaker.enter()
        if ticket is None:
            return False
        try:
            await self._line.write(PROBE_KEY, "1", 1)
        except OUTAGES as error:
            self.breaker.failed(ticket, error)
            return False
        except BaseException:
            self.breaker.gave_up(ticket)
            raise
        self.breaker.succeeded(ticket)
        return True
