"""Work beside the requests: repeated, not stopped by a failure, and finished before the end."""

import asyncio

import pytest

from backend.adapters.periodic import Periodic

pytestmark = pytest.mark.anyio

AT_ONCE_S = 0.0
NEVER_S = 3600.0


async def test_it_goes_on_after_a_failure() -> None:
    runs: list[int] = []
    enough = asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) == 3:
            enough.set()
        raise ValueError

    periodic = Periodic("work", work, every_s=AT_ONCE_S)
    periodic.start()
    await enough.wait()
    await periodic.aclose()
    assert len(runs) >= 3


async def test_a_run_that_is_under_way_is_finished() -> None:
    begun, may_end, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.set()

    periodic = Periodic("work", work, every_s=AT_ONCE_S)
    periodic.start()
    await begun.wait()
    closing = asyncio.create_task(periodic.aclose())
    may_end.set()
    await closing
    assert done.is_set()


async def test_the_end_does_not_wait_for_the_next_run() -> None:
    async def work() -> None:
        raise AssertionError("not yet")

    periodic = Periodic("work", work, every_s=NEVER_S)
    periodic.start()
    await periodic.aclose()


async def test_what_was_never_started_ends_at_once() -> None:
    async def work() -> None: ...

    await Periodic("work", work, every_s=NEVER_S).aclose()
