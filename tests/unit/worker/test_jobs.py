"""What single jobs do in one turn."""

import pytest

from backend.worker import usage_rollup
from backend.worker.jobs import ROLLUP_REST

pytestmark = pytest.mark.anyio


class BusyLedger:
    """Sums by the hour of a ledger that is written to all the time: as many events come as each fold takes to run."""

    batch_events = 100

    def __init__(self, waiting: int, arriving: int) -> None:
        self.waiting = waiting
        self.folds: list[int] = []
        self._arriving = arriving

    async def fold_of_all_tenants(self) -> int:
        count = min(self.waiting, self.batch_events)
        self.waiting += self._arriving - count
        self.folds.append(count)
        return count


async def test_a_roll_up_catches_up_and_ends_although_more_is_coming() -> None:
    ledger = BusyLedger(waiting=250, arriving=10)
    assert await usage_rollup(ledger).work() == 270
    assert ledger.folds == [100, 100, 70]
    # What came meanwhile is there for the next turn.
    assert await usage_rollup(ledger).work() == 10


async def test_a_roll_up_rests_after_each_batch_but_the_last() -> None:
    """In proportion to what a batch took: a database that is slow has much to do."""
    ledger, rests = BusyLedger(waiting=250, arriving=0), list[float]()
    # When each batch began, and when it was done.
    times_s = iter([0.0, 0.25, 10.0, 10.5, 20.0])

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    assert await usage_rollup(ledger, now_s=lambda: next(times_s), sleep=rest).work() == 250
    assert rests == [ROLLUP_REST * 0.25, ROLLUP_REST * 0.5]
