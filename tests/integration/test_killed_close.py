"""LEDGER.md R15: a close that is killed between any two of its steps is finished by the next, with the same totals."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.domain.audit import AuditFilter
from backend.domain.billing_periods import PeriodState
from tests.contracts.closing import OVER, PERIOD, a_closer, a_listener, a_subscriber, close, kept, state, told
from tests.contracts.ledgers import an_event, append_all, new_tenant, opened_books
from tests.databases import migrated_database
from tests.fakes import FakeClock
from tests.warm_process import run_warm

pytestmark = [pytest.mark.anyio, pytest.mark.process]

WITHIN_S = 60.0
MOST_STEPS = 60


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with migrated_database(request, tmp_path) as url:
        yield url


def closed_until_killed(url: str, step: int) -> int:
    """Close in a process that dies at a step; return its exit code, 0 once there are no more steps to die at."""
    arguments = (url, PERIOD, OVER.isoformat(), str(step))
    return run_warm("tests.integration.dying_close", *arguments, env=os.environ, within_s=WITHIN_S).returncode


async def test_r15_a_close_killed_between_any_two_steps_is_finished_with_the_same_totals(url: str) -> None:
    clock = FakeClock()
    async with opened_books(url) as books:
        async with books.writer(clock=clock) as ledger:
            whole = await a_subscriber(books, new_tenant())
            await append_all(ledger, [an_event(whole, id=f"evt_{number}") for number in range(7)])
        clock.set(OVER)
        await close(a_closer(books, clock), whole)
        expected = await kept(books, whole)
        assert expected is not None
        seen: set[PeriodState] = set()
        for step in range(4, MOST_STEPS):
            async with books.writer(clock=FakeClock()) as ledger:
                tenant = await a_subscriber(books, new_tenant())
                listener = await a_listener(books, tenant)
                await append_all(ledger, [an_event(tenant, id=f"evt_{number}") for number in range(7)])
            code = await asyncio.to_thread(closed_until_killed, url, step)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            seen.add(await state(books, tenant))
            await close(a_closer(books, clock), tenant)
            found = await kept(books, tenant)
            assert found is not None
            assert (found.totals.events, found.totals.units, found.totals.amount_micros) == (
                expected.totals.events,
                expected.totals.units,
                expected.totals.amount_micros,
            )
            async with books.database.unit_of_work(read_only=True) as unit:
                records = await unit.audit.list(tenant, AuditFilter(), before_sequence=None, limit=10)
            assert [record.entry.action.value for record in records] == ["period.closed"]
            assert [delivery.event.value for delivery in await told(books, listener)] == ["period.closed"]
        else:
            pytest.fail("the close has more steps than this test walks through")
        assert seen == {PeriodState.OPEN, PeriodState.CLOSING, PeriodState.CLOSED}
