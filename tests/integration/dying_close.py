"""A process that closes a month and is killed at one of its steps: before or after one of its units of work ends.

    python -m tests.integration.dying_close URL PERIOD NOW STEP

Steps count every unit of work and every page that is read, so that the whole close is cut in between any two. They
count anew with each attempt: how often another transaction of the server holds the watermark back is not for a test
to know.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from backend.adapters.db.engine import open_engine
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.usage_spill import NothingWaits
from backend.domain.audit import OPERATOR
from backend.services.closing import PeriodCloser
from tests.contracts.closing import GRACE_S
from tests.fakes import FakeClock, FakeHistory


class Countdown:
    """Kills this very process when it has been asked so often."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._left = steps

    def restart(self) -> None:
        self._left = self._steps

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    """The store, with a step before and after each unit of work, and one within it, just before it is committed."""

    def __init__(self, database: Database, countdown: Countdown) -> None:
        self._database = database
        self._countdown = countdown

    @asynccontextmanager
    async def unit_of_work(self, *, read_only: bool = False) -> AsyncIterator[Any]:
        self._countdown.step()
        async with self._database.unit_of_work(read_only=read_only) as unit:
            yield unit
            self._countdown.step()
        self._countdown.step()


async def main(url: str, period: str, now: str, steps: int) -> None:
    database = Database(open_engine(url, pool_size=4, timeout_s=10))
    clock = FakeClock(datetime.fromisoformat(now))
    countdown = Countdown(steps)
    closer = PeriodCloser(
        store=DyingStore(database, countdown),
        reader=SqlUsageReader(database, clock),
        waiting=NothingWaits(),
        admission=MemoryAdmission(clock, FakeHistory(), cache_bytes=1_000, cache_ttl_s=1.0),
        clock=clock,
        grace_s=GRACE_S,
    )
    while any(error.code == "watermark-behind" for error in (await closer.close(OPERATOR, period)).failures.values()):
        await asyncio.sleep(0.01)
        countdown.restart()
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
