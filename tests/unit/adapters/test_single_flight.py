"""Shared work: once for all who wait, whatever becomes of any of them."""

import asyncio
import gc

import pytest

from backend.adapters.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


async def test_work_runs_once_for_all_who_wait_and_again_for_the_next() -> None:
    flight, runs, gate = SingleFlight(), [], asyncio.Event()

    async def work() -> None:
        runs.append(1)
        await gate.wait()

    waiting = [asyncio.create_task(flight.run("name", work)) for _ in range(5)]
    asyncio.get_running_loop().call_soon(gate.set)
    await asyncio.gather(*waiting)
    assert len(runs) == 1
    await flight.run("name", work)
    assert len(runs) == 2


async def test_an_error_reaches_every_waiter_and_is_not_kept() -> None:
    flight, runs = SingleFlight(), []

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("first")

    outcomes = await asyncio.gather(*[flight.run("name", work) for _ in range(3)], return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["first"] * 3
    await flight.run("name", work)


async def test_work_goes_on_when_whoever_began_it_leaves() -> None:
    flight, gate, done = SingleFlight(), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    first = asyncio.create_task(flight.run("name", work))
    second = asyncio.create_task(flight.run("name", work))
    asyncio.get_running_loop().call_soon(first.cancel)
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.set()
    await second
    assert done == [1]


async def test_an_error_that_nobody_waits_for_is_not_reported_as_forgotten() -> None:
    flight, gate = SingleFlight(), asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise ValueError("nobody cares")

    only = asyncio.create_task(flight.run("name", work))
    asyncio.get_running_loop().call_soon(only.cancel)
    with pytest.raises(asyncio.CancelledError):
        await only
    gate.set()
    while flight._running:
        await asyncio.sleep(0)
    gc.collect()
