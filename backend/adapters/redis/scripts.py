"""The one door to Redis: behind a breaker, and every outage turned into one domain error."""

from collections.abc import Sequence

from backend.adapters.breaker import Breaker
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.redis.line import OUTAGES, Line, Reply, Script, Value
from backend.domain.errors import EnforcementUnavailable

PROBE_KEY = "fc:probe"
"""Written to find out whether the server takes writes: a replica, or a server without memory, only answers reads."""


class ScriptRunner:
    """The only way from these adapters to Redis, and so the one place where an outage becomes known.

    Args:
        line: what carries the calls. It stays the caller's, who closes it.
        breaker: what has been known to be dead for a moment is not asked; by default one of its own.
    """

    def __init__(self, line: Line, breaker: Breaker | None = None) -> None:
        self._line = line
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
