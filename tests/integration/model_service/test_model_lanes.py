"""Lanes: batch when busy, never wait when idle; fair, bounded, and safe from callers who leave and calls that hang."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from backend.domain.errors import ConcurrencyExceeded, ModelUnavailable, Overloaded
from backend.domain.models import OutputOptions
from backend.model_service.lane import LaneKey
from backend.model_service.lane_limits import LaneLimits
from backend.model_service.lanes import Lanes
from backend.model_service.manifest import Row

pytestmark = pytest.mark.anyio

KEY = LaneKey("iris@1", "d1", OutputOptions())
OTHER = LaneKey("wine@1", "d2", OutputOptions())
PATIENCE_S = 10


class Model:
    """Doubles its rows; a poisonous row raises. While the gate is shut, or a batch's own, the batch waits there."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.threads: list[threading.Thread] = []
        self.poison: set[object] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.gates: dict[tuple[object, ...], threading.Event] = {}
        self.started = threading.Event()

    def __call__(self, rows: Sequence[Row]) -> list[bytes]:
        self.batches.append([row[0] for row in rows])
        self.threads.append(threading.current_thread())
        self.started.set()
        assert self.gates.get(tuple(self.batches[-1]), self.gate).wait(PATIENCE_S)
        if self.poison & {row[0] for row in rows}:
            raise ValueError("a row is poisonous")
        return [orjson.dumps(answer(row[0])) for row in rows]

    async def hold(self) -> None:
        """Wait until a batch stands at the gate."""
        assert await asyncio.to_thread(self.started.wait, PATIENCE_S)
        self.started.clear()


def answer(value: object) -> object:
    assert isinstance(value, int)
    return value * 2


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.gate.set()


Serve = Callable[..., "asyncio.Task[list[bytes]]"]


@asynccontextmanager
async def lanes_with(**limits: float) -> AsyncIterator[Lanes]:
    lanes = Lanes(LaneLimits(**limits))  # type: ignore[arg-type]  # counts are whole where they are given
    lanes.start()
    try:
        yield lanes
    finally:
        await lanes.aclose()


def submitted(
    lanes: Lanes, model: Model, *values: int, share: str = "a", key: LaneKey = KEY
) -> Coroutine[Any, Any, list[bytes]]:
    """Rows for a model, of one value each."""
    rows: list[Row] = [(value,) for value in values]
    return lanes.submit(key, model, rows, [orjson.dumps(row) for row in rows], share=share)


async def ask(
    lanes: Lanes, model: Model, *values: int, share: str = "a", key: LaneKey = KEY
) -> "asyncio.Task[list[bytes]]":
    """Submit rows as a task of its own, and return once they are queued."""
    task = asyncio.ensure_future(submitted(lanes, model, *values, share=share, key=key))
    await asyncio.sleep(0)
    return task


async def test_a_caller_gets_its_answers_in_order(model: Model) -> None:
    async with lanes_with() as lanes:
        assert await (await ask(lanes, model, 3, 1, 2)) == [b"6", b"2", b"4"]


async def test_a_lone_caller_waits_for_nobody(model: Model) -> None:
    async with lanes_with() as lanes:
        for value in range(5):
            await (await ask(lanes, model, value))
    assert model.batches == [[0], [1], [2], [3], [4]]


async def test_what_arrives_while_the_worker_is_busy_is_the_next_batch(model: Model) -> None:
    model.gate.clear()
    async with lanes_with() as lanes:
        tasks = [await ask(lanes, model, 0)]
        await model.hold()
        tasks += [await ask(lanes, model, value) for value in range(1, 33)]
        model.gate.set()
        assert [await task for task in tasks] == [[orjson.dumps(2 * value)] for value in range(33)]
    assert model.batches == [[0], list(range(1, 33))]


async def test_a_batch_is_bounded_in_rows_not_in_callers(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_batch_rows=10) as lanes:
        first = await ask(lanes, model, 0)
        await model.hold()
        tasks = [await ask(lanes, model, *range(start, start + 7)) for start in (100, 200, 300)]
        model.gate.set()
        await asyncio.gather(first, *tasks)
        assert tasks[2].result() == [orjson.dumps(2 * value) for value in range(300, 307)]
    assert [len(batch) for batch in model.batches] == [1, 10, 10, 1]


async def test_only_rows_of_one_lane_are_computed_together(model: Model) -> None:
    other = Model()
    model.gate.clear()
    async with lanes_with() as lanes:
        first = await ask(lanes, model, 0)
        await model.hold()
        mine = [await ask(lanes, model, value) for value in (1, 2)]
        theirs = [await ask(lanes, other, value, key=OTHER) for value in (1, 2)]
        model.gate.set()
        await asyncio.gather(first, *mine, *theirs)
    assert model.batches == [[0], [1, 2]]
    assert other.batches == [[1, 2]]


async def test_lanes_take_turns(model: Model) -> None:
    other = Model()
    other.batches = model.batches  # one record of both
    model.gate.clear()
    async with lanes_with(max_batch_rows=2) as lanes:
        first = await ask(lanes, model, 0)
        await model.hold()
        mine = await ask(lanes, model, 1, 2, 3, 4)
        theirs = await ask(lanes, other, 101, 102, 103, 104, key=OTHER)
        model.gate.set()
        await asyncio.gather(first, mine, theirs)
    assert model.batches == [[0], [1, 2], [101, 102], [3, 4], [103, 104]]


async def test_a_share_with_one_row_does_not_wait_for_a_share_with_a_thousand(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_batch_rows=20, quantum_rows=5) as lanes:
        first = await ask(lanes, model, -1, share="big")
        await model.hold()
        big = await ask(lanes, model, *range(1000), share="big")
        small = await ask(lanes, model, 5000, share="small")
        model.gate.set()
        await asyncio.gather(first, big, small)
    assert model.batches[1] == [0, 1, 2, 3, 4, 5000, *range(5, 19)]


async def test_shares_that_queue_the_same_get_the_same(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_batch_rows=12, quantum_rows=5) as lanes:
        first = await ask(lanes, model, -1)
        await model.hold()
        tasks = [await ask(lanes, model, *range(at, at + 60), share=str(at)) for at in (0, 1000, 2000)]
        model.gate.set()
        await asyncio.gather(first, *tasks)
    served = [0, 0, 0]
    for batch in model.batches[1:]:
        for value in batch:
            assert isinstance(value, int)
            served[value // 1000] += 1
        # Never more apart than one turn.
        assert max(served) - min(served) <= 5
    assert served == [60, 60, 60]


async def test_equal_rows_of_a_share_in_flight_are_computed_once(model: Model) -> None:
    model.gate.clear()
    async with lanes_with() as lanes:
        running = await ask(lanes, model, 7)
        await model.hold()
        tasks = [await ask(lanes, model, 7), await ask(lanes, model, 8, 8), await ask(lanes, model, 8, 9)]
        model.gate.set()
        found = await asyncio.gather(running, *tasks)
    assert found == [[b"14"], [b"14"], [b"16", b"16"], [b"16", b"18"]]
    assert model.batches == [[7], [8, 9]]


async def test_equal_rows_of_two_shares_are_computed_twice(model: Model) -> None:
    model.gate.clear()
    async with lanes_with() as lanes:
        first = await ask(lanes, model, 7, share="a")
        await model.hold()
        second = await ask(lanes, model, 7, share="b")
        model.gate.set()
        await asyncio.gather(first, second)
    assert model.batches == [[7], [7]]


async def test_a_caller_who_leaves_is_skipped_and_the_others_are_answered(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_batch_rows=2) as lanes:
        tasks = [await ask(lanes, model, 0)]
        await model.hold()
        leaving = await ask(lanes, model, 1, 2)
        tasks += [await ask(lanes, model, value) for value in (2, 3)]
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        model.gate.set()
        assert await asyncio.gather(*tasks) == [[b"0"], [b"4"], [b"6"]]
    assert model.batches == [[0], [2, 3]]


async def test_a_caller_who_leaves_while_its_row_runs_disturbs_nobody(model: Model) -> None:
    model.gate.clear()
    async with lanes_with() as lanes:
        leaving = await ask(lanes, model, 1)
        await model.hold()
        same = await ask(lanes, model, 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        model.gate.set()
        assert await same == [b"2"]
        assert await (await ask(lanes, model, 1)) == [b"2"]
    assert model.batches == [[1], [1]]


@pytest.mark.parametrize(
    ("limit", "refusal"), [("max_share_rows", ConcurrencyExceeded), ("max_waiting_rows", Overloaded)]
)
async def test_rows_of_callers_who_left_free_their_place(model: Model, limit: str, refusal: type[Exception]) -> None:
    model.gate.clear()
    async with lanes_with(**{limit: 3}) as lanes:
        first = await ask(lanes, model, 0)
        await model.hold()
        leaving = await ask(lanes, model, 1, 2)
        with pytest.raises(refusal):
            await (await ask(lanes, model, 3))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        later = await ask(lanes, model, 3, 4)
        model.gate.set()
        assert [await first, await later] == [[b"0"], [b"6", b"8"]]


async def test_a_poisonous_row_fails_only_its_caller(model: Model) -> None:
    model.gate.clear()
    model.poison = {13}
    async with lanes_with() as lanes:
        tasks = [await ask(lanes, model, value) for value in range(20)]
        model.gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[13], ModelUnavailable)
    assert found[13].__cause__ is None
    assert "poisonous" not in found[13].detail
    del found[13]
    assert found == [[orjson.dumps(2 * value)] for value in range(20) if value != 13]


async def test_a_call_with_a_poisonous_row_fails_whole_and_its_other_rows_are_dropped(model: Model) -> None:
    model.gate.clear()
    model.poison = {0}
    async with lanes_with(max_batch_rows=8) as lanes:
        guilty = await ask(lanes, model, *range(64))
        await model.hold()
        innocent = await ask(lanes, model, 100, 63)
        model.gate.set()
        with pytest.raises(ModelUnavailable):
            await guilty
        assert await innocent == [b"200", b"126"]
    assert model.batches == [list(range(8)), [0, 1, 2, 3], [0, 1], [0], [63, 100]]


async def test_a_row_that_was_dropped_is_computed_if_somebody_comes_for_it_after_all(model: Model) -> None:
    model.gate.clear()
    model.poison = {0}
    slow = model.gates[200,] = threading.Event()
    async with lanes_with() as lanes:
        first = await ask(lanes, model, -1)
        await model.hold()
        guilty = await ask(lanes, model, 0, 63)
        other = await ask(lanes, model, 200)
        model.gate.set()
        # The batch fails, then its row 0 alone; row 63 is nobody's now, and row 200 is being computed ...
        while model.batches[-1] != [200]:
            await model.hold()
        # ... when somebody asks for row 63, which is still in flight.
        late = await ask(lanes, model, 63)
        slow.set()
        assert [await first, await other, await late] == [[b"-2"], [b"400"], [b"126"]]
        with pytest.raises(ModelUnavailable):
            await guilty
    assert model.batches == [[-1], [0, 63, 200], [0], [200], [63]]


async def test_a_model_that_tries_to_exit_fails_only_its_caller() -> None:
    def leave(rows: Sequence[Row]) -> list[bytes]:
        raise SystemExit

    async with lanes_with() as lanes:
        with pytest.raises(ModelUnavailable):
            await lanes.submit(KEY, leave, [(1,)], [b"1"], share="a")
        assert await (await ask(lanes, Model(), 1, key=OTHER)) == [b"2"]


async def test_a_model_that_loses_an_answer_fails_instead_of_shifting_them() -> None:
    def forgetful(rows: Sequence[Row]) -> list[bytes]:
        return [b"answer"] * (len(rows) - 1)

    async with lanes_with() as lanes:
        with pytest.raises(ModelUnavailable):
            await lanes.submit(KEY, forgetful, [(1,), (2,)], [b"1", b"2"], share="a")


async def test_a_share_is_bounded_and_the_others_are_not_touched(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_share_rows=4) as lanes:
        tasks = [await ask(lanes, model, 1, 2, 3, 4)]
        with pytest.raises(ConcurrencyExceeded) as caught:
            await (await ask(lanes, model, 5))
        assert caught.value.retry_after_s == 1
        tasks.append(await ask(lanes, model, 5, share="b"))
        model.gate.set()
        await asyncio.gather(*tasks)
        assert await (await ask(lanes, model, 5)) == [b"10"]


async def test_all_queues_together_are_bounded(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(max_waiting_rows=4) as lanes:
        tasks = [await ask(lanes, model, value, share=str(value)) for value in range(4)]
        with pytest.raises(Overloaded) as caught:
            await (await ask(lanes, Model(), 5, share="late", key=OTHER))
        assert caught.value.retry_after_s == 1
        model.gate.set()
        await asyncio.gather(*tasks)
        assert await (await ask(lanes, model, 5)) == [b"10"]


async def test_a_wait_that_would_be_too_long_is_refused(model: Model) -> None:
    async with lanes_with(max_wait_s=0.0) as lanes:
        await (await ask(lanes, model, 0))  # measures a run
        model.started.clear()
        model.gate.clear()
        running = await ask(lanes, model, 1)
        await model.hold()
        queued = await ask(lanes, model, 2)
        with pytest.raises(Overloaded, match="wait"):
            await (await ask(lanes, model, 3))
        model.gate.set()
        assert [await running, await queued] == [[b"2"], [b"4"]]


async def test_who_cannot_wait_that_long_is_refused_at_once_and_who_can_is_not(model: Model) -> None:
    async with lanes_with(max_batch_rows=1) as lanes:
        gate = model.gates[0,] = threading.Event()
        slow = await ask(lanes, model, 0)
        await model.hold()
        await asyncio.to_thread(threading.Event().wait, 0.1)
        gate.set()
        await slow  # so a run is known to take a tenth of a second, or more
        model.started.clear()
        model.gate.clear()
        waiting = [await ask(lanes, model, 1)]
        await model.hold()
        waiting += [await ask(lanes, model, value) for value in (2, 3)]
        hasty = lanes.submit(KEY, model, [(4,)], [b"4"], share="a", deadline_s=0.1)
        with pytest.raises(Overloaded, match="wait") as caught:
            await hasty
        assert (caught.value.retry_after_s or 0) >= 1
        patient = asyncio.ensure_future(lanes.submit(KEY, model, [(4,)], [b"4"], share="a", deadline_s=60.0))
        await asyncio.sleep(0)
        model.gate.set()
        assert await asyncio.gather(*waiting, patient) == [[b"2"], [b"4"], [b"6"], [b"8"]]


async def test_a_stuck_call_is_given_up_shows_and_recovers(model: Model) -> None:
    model.gate.clear()
    async with lanes_with(stuck_after_s=0.05) as lanes:
        running = await ask(lanes, model, 1)
        await model.hold()
        queued = await ask(lanes, model, 2)
        assert lanes.stuck_models() == frozenset()
        with pytest.raises(ModelUnavailable):
            await running
        with pytest.raises(Overloaded):
            await queued
        assert lanes.stuck_models() == {"iris@1"}
        with pytest.raises(Overloaded):
            await (await ask(lanes, model, 3))
        # Another model is served meanwhile, by another thread.
        assert await (await ask(lanes, Model(), 4, key=OTHER)) == [b"8"]
        assert lanes.is_serving()

        model.gate.set()
        await asyncio.to_thread(model.threads[0].join, PATIENCE_S)
        assert lanes.stuck_models() == frozenset()
        assert await (await ask(lanes, model, 5)) == [b"10"]
        assert model.threads[-1] is not model.threads[0]
    assert model.batches == [[1], [5]]


async def test_closing_finishes_what_is_queued_and_takes_no_more(model: Model) -> None:
    model.gate.clear()
    lanes = Lanes(LaneLimits())
    lanes.start()
    tasks = [await ask(lanes, model, 0)]
    await model.hold()
    tasks += [await ask(lanes, model, value, share=str(value)) for value in range(1, 9)]
    closing = asyncio.ensure_future(lanes.aclose())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await (await ask(lanes, model, 10))
    assert not lanes.is_serving()
    model.gate.set()
    await closing
    assert [task.result() for task in tasks] == [[orjson.dumps(2 * value)] for value in range(9)]
    assert not model.threads[0].is_alive()
    await lanes.aclose()


async def test_closing_does_not_wait_for_ever(model: Model) -> None:
    model.gate.clear()
    lanes = Lanes(LaneLimits(drain_s=0.05))
    lanes.start()
    running = await ask(lanes, model, 0)
    await model.hold()
    queued = await ask(lanes, model, 1)
    await lanes.aclose()
    found = await asyncio.gather(running, queued, return_exceptions=True)
    assert [type(each) for each in found] == [Overloaded, Overloaded]
    model.gate.set()
    await asyncio.to_thread(model.threads[0].join, PATIENCE_S)
    assert not model.threads[0].is_alive()


async def test_closing_while_a_call_is_stuck_finishes_the_other_lanes(model: Model) -> None:
    model.gate.clear()
    lanes = Lanes(LaneLimits(stuck_after_s=0.05, drain_s=PATIENCE_S))
    lanes.start()
    stuck = await ask(lanes, model, 0)
    await model.hold()
    other = await ask(lanes, Model(), 1, key=OTHER)
    started_s = time.monotonic()
    await lanes.aclose()
    assert await other == [b"2"]
    with pytest.raises(ModelUnavailable):
        await stuck
    assert time.monotonic() - started_s < PATIENCE_S / 2


async def test_lanes_that_were_not_started_take_no_rows(model: Model) -> None:
    lanes = Lanes(LaneLimits())
    assert not lanes.is_serving()
    with pytest.raises(Overloaded):
        await (await ask(lanes, model, 1))
    await lanes.aclose()
    with pytest.raises(RuntimeError, match="started before"):
        lanes.start()


def scheduled(thread: threading.Thread | None) -> str:
    """How long and how often a thread has run so far: two equal answers, and it has slept between them."""
    assert thread is not None
    return Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()


async def sleeps(*threads: threading.Thread | None) -> bool:
    """Whether threads come to rest: none of them is woken once in half a second."""
    for _ in range(10):
        before = [scheduled(thread) for thread in threads]
        # Time has to pass for a thread that spins or polls to show.
        await asyncio.to_thread(threading.Event().wait, 0.5)
        if [scheduled(thread) for thread in threads] == before:
            return True
    return False


counts_wake_ups = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel counts no wake-ups")


@counts_wake_ups
async def test_idle_threads_are_not_woken_once(model: Model) -> None:
    async with lanes_with(stuck_after_s=0.01) as lanes:
        await (await ask(lanes, model, 1))
        assert await sleeps(lanes._worker, lanes._watchdog)


@counts_wake_ups
async def test_waiting_for_a_long_call_wakes_nobody(model: Model) -> None:
    model.gate.clear()
    async with lanes_with() as lanes:
        task = await ask(lanes, model, 1)
        await model.hold()
        assert await sleeps(lanes._worker, lanes._watchdog)
        model.gate.set()
        assert await task == [b"2"]


@counts_wake_ups
async def test_a_thread_that_polls_would_be_noticed() -> None:
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(0.1):
            pass

    thread = threading.Thread(target=poll)
    thread.start()
    before = scheduled(thread)
    await asyncio.to_thread(threading.Event().wait, 0.5)
    assert scheduled(thread) != before
    ended.set()


@counts_wake_ups
async def test_those_who_ask_in_one_turn_of_the_loop_are_one_batch(model: Model) -> None:
    async with lanes_with() as lanes:
        assert await sleeps(lanes._worker)
        begun: list[bool] = []
        tasks = []
        for value in range(3):
            tasks.append(asyncio.ensure_future(submitted(lanes, model, value)))
            # As anything does that lets other threads run.
            asyncio.get_running_loop().call_soon(lambda: begun.append(model.started.wait(0.02)))
        assert await asyncio.gather(*tasks) == [[b"0"], [b"2"], [b"4"]]
    assert begun == [False] * 3
    assert model.batches == [[0, 1, 2]]


@counts_wake_ups
def test_a_turn_that_does_not_end_holds_up_its_own_rows_only(model: Model) -> None:
    lanes = Lanes(LaneLimits())
    lanes.start()
    assert asyncio.run(sleeps(lanes._worker))
    loop = asyncio.new_event_loop()
    task = loop.create_task(submitted(lanes, model, 1))
    loop.call_soon(loop.stop)
    loop.run_forever()

    assert asyncio.run(submitted(lanes, model, 2)) == [b"4"]
    assert loop.run_until_complete(task) == [b"2"]
    loop.close()
    anyio.run(lanes.aclose)


@pytest.mark.parametrize("seed", range(5))
async def test_where_some_leave_and_some_rows_fail_everybody_else_gets_their_own(model: Model, seed: int) -> None:
    """No neighbour's row is shifted, no batch hung by one who left, none failed by one, in any order of events."""
    chance = random.Random(seed)
    model.poison = {13, 77}
    model.gate.clear()
    calls: list[tuple[list[int], asyncio.Task[list[bytes]]]] = []
    async with lanes_with(max_batch_rows=7, quantum_rows=3) as lanes:
        for number in range(200):
            values = [chance.randrange(100) for _ in range(chance.randint(1, 6))]
            key = chance.choice([KEY, OTHER])
            calls.append((values, await ask(lanes, model, *values, share=chance.choice("abc"), key=key)))
            if chance.random() < 0.2:
                chance.choice(calls)[1].cancel()
            if number == 50:
                model.gate.set()
        async with asyncio.timeout(PATIENCE_S):
            found = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
    for (values, task), answers in zip(calls, found, strict=True):
        if task.cancelled():
            continue
        if model.poison & set(values):
            assert isinstance(answers, ModelUnavailable)
        else:
            assert answers == [orjson.dumps(2 * value) for value in values]
    assert {type(each) for each in found} == {list, ModelUnavailable, asyncio.CancelledError}


def test_callers_on_several_event_loops_share_the_lanes(model: Model) -> None:
    lanes = Lanes(LaneLimits())
    lanes.start()
    found: dict[int, list[list[bytes]]] = {}

    async def call(first: int) -> None:
        tasks = [await ask(lanes, model, value, share=str(first)) for value in range(first, first + 50)]
        found[first] = await asyncio.gather(*tasks)

    threads = [threading.Thread(target=lambda first=first: asyncio.run(call(first))) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    anyio.run(lanes.aclose)
    for first in (0, 100, 200):
        assert found[first] == [[orjson.dumps(2 * value)] for value in range(first, first + 50)]


def test_a_caller_whose_event_loop_is_gone_disturbs_nobody(model: Model) -> None:
    lanes = Lanes(LaneLimits())
    lanes.start()
    model.gate.clear()

    async def leave() -> None:
        await ask(lanes, model, 1)
        await model.hold()

    asyncio.run(leave())

    async def stay() -> list[bytes]:
        task = await ask(lanes, model, 2)
        model.gate.set()
        return await task

    assert asyncio.run(stay()) == [b"4"]
    anyio.run(lanes.aclose)
