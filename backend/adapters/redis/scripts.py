"""Runs Lua scripts by their digest, within a bound, and turns every outage into one domain error."""

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from backend.domain.errors import EnforcementUnavailable

Value = str | bytes | int | float
Reply = list[bytes | int | None]


class Script:
    """One ``.lua`` file of this package."""

    def __init__(self, name: str) -> None:
        self.source = files("backend.adapters.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class ScriptRunner:
    """The only way from these adapters to Redis, and so the one place where an outage becomes known.

    Args:
        client: a client whose connections answer in bytes; see ``connect``.
        timeout_s: bound on a whole call, the wait for a connection included.
    """

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet.

        Raises:
            EnforcementUnavailable: no answer within the bound. The script may have run nevertheless.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    reply = await self._client.evalsha(script.digest, len(keys), *keys, *args)
                except NoScriptError:
                    # A new server, a failover or SCRIPT FLUSH. EVAL runs it and keeps it.
                    reply = await self._client.eval(script.source, len(keys), *keys, *args)
        except (RedisError, OSError, TimeoutError) as error:
            raise EnforcementUnavailable(retry_after_s=1) from error
        return cast("Reply", reply)

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key.

        Raises:
            EnforcementUnavailable: no answer within the bound.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                # One GET each: on Redis Cluster the keys may live apart.
                pipeline = self._client.pipeline(transaction=False)
                for key in keys:
                    pipeline.get(key)
                return cast("Reply", await pipeline.execute())
        except (RedisError, OSError, TimeoutError) as error:
            raise EnforcementUnavailable(retry_after_s=1) from error

    async def answers(self) -> bool:
        """Whether the server answers a PING within the bound. Never raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True
