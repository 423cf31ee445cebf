"""Predictions before logins, in one process.

A login costs the event loop several times what a prediction does, in a handful of steps between which it waits for
its password's hash and for the database. So three things hold while predictions are served: logins enter a few at a
time and some time apart, which bounds their share of the loop; they do a step when no prediction is under way; and of
many that arrive at once, each does its first step alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from backend.domain.errors import Overloaded

APART_S = 0.08
"""Some 12 logins a second beside predictions: fifty that arrive at once are answered within four seconds."""
MOST_IN_LINE = 128
WITHIN_S = 30.0
SERVING_FOR_S = 1.0
"""How long after the last prediction the next one is expected."""
GIVE_WAY_FOR_S = 0.01
"""A server that is never without a prediction still lets its logins get on."""
_TOO_MANY = "Too many are signing in at the moment."


class PredictionsFirst:
    """Implements ``Precedence``; for one event loop.

    Args:
        at_a_time: logins that are worked on: one more than are hashed at a time, so that while those wait for their
            hashes another one reads what to compare with, or writes what came of it.
        apart_s: between two that enter, while predictions are served.
        most_in_line: how many may have a turn, or wait for one; a further one is refused at once.
        within_s: how long one waits at the most.
        give_way_for_s: how long a step waits for a moment without predictions.
        now_s: a clock that never goes back.
        sleep: how to wait for a while by that clock.
    """

    def __init__(
        self,
        *,
        at_a_time: int,
        apart_s: float = APART_S,
        most_in_line: int = MOST_IN_LINE,
        within_s: float = WITHIN_S,
        give_way_for_s: float = GIVE_WAY_FOR_S,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._turns = asyncio.Semaphore(at_a_time)
        self._apart_s = apart_s
        self._most_in_line = most_in_line
        self._within_s = within_s
        self._give_way_for_s = give_way_for_s
        self._now_s = now_s
        self._sleep = sleep
        self._in_line = 0
        self._next_s = now_s()
        self._under_way = 0
        self._last_s = float("-inf")
        self._passing = asyncio.Lock()
        self._waits: asyncio.Future[None] | None = None

    def enter(self) -> None:
        """Note that a prediction begins."""
        self._under_way += 1

    def leave(self) -> None:
        """Note that a prediction is over."""
        self._under_way -= 1
        self._last_s = self._now_s()
        if self._waits is not None and not self._under_way and not self._waits.done():
            self._waits.set_result(None)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one of the few turns there are at a time, and hold it for the block.

        Raises:
            Overloaded: too many are in line already, or it took too long.
        """
        if self._in_line >= self._most_in_line:
            raise Overloaded(_TOO_MANY)
        self._in_line += 1
        try:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._turns.acquire()
            except TimeoutError:
                raise Overloaded(_TOO_MANY) from None
            try:
                await self._keep_apart()
                yield
            finally:
                self._turns.release()
        finally:
            self._in_line -= 1

    async def give_way(self) -> None:
        """Let predictions go first, and of all others one at a time."""
        async with self._passing:
            # Once around the loop to see what has arrived, once more for it to begin.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if self._under_way:
                await self._lull()

    async def _keep_apart(self) -> None:
        now_s = self._now_s()
        if not self._under_way and now_s >= self._last_s + SERVING_FOR_S:
            return
        at_s = max(now_s, self._next_s)
        # Taken before the wait: whoever comes meanwhile stands behind.
        self._next_s = at_s + self._apart_s
        if at_s > now_s:
            await self._sleep(at_s - now_s)

    async def _lull(self) -> None:
        self._waits = asyncio.get_running_loop().create_future()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._give_way_for_s):
                    await self._waits
        finally:
            self._waits = None
