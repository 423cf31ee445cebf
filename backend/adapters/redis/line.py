"""What carries calls to Redis: scripts by their digest, plain reads and writes."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Protocol

from redis.exceptions import RedisError

Value = str | bytes | int | float
Reply = list[bytes | int | None]

OUTAGES = (RedisError, OSError, TimeoutError)


class Script:
    """One ``.lua`` file of this package."""

    def __init__(self, name: str) -> None:
        self.source = files("backend.adapters.redis").joinpath(f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


OnPrimary = Callable[[Script, Sequence[Value]], Awaitable[Reply]]
"""Runs a script without keys on one certain server, within the bound of a call."""


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

    async def primaries(self) -> Sequence[OnPrimary]:
        """Return a way to each server that holds a part of the keys: on Redis Cluster several."""
        ...

    async def aclose(self) -> None:
        """Give all connections up."""
        ...
