"""Predictions before logins: the line, the time between two, and giving way. The clock is ours."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from backend.adapters.memory.precedence import SERVING_FOR_S, PredictionsFirst
from backend.domain.errors import Overloaded

pytestmark = pytest.mark.anyio


class Watch:
    """A clock that goes on only while somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def now_s(self) -> float:
        return self.now

    async def sleep(self, for_s: float) -> None:
        until = self.now + for_s
        await asyncio.sleep(0)
        self.now = max(self.now, until)


def watched(watch: Watch, *, at_a_time: int = 1, apart_s: float = 0.1) -> PredictionsFirst:
    return PredictionsFirst(at_a_time=at_a_time, apart_s=apart_s, now_s=watch.now_s, sleep=watch.sleep)


async def settled() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def serve_one(precedence: PredictionsFirst) -> None:
    precedence.enter()
    precedence.leave()


async def entered_at(precedence: PredictionsFirst, watch: Watch, logins: int) -> list[float]:
    """Let so many sign in at once; return how long after the first each got in."""
    began = watch.now
    entries: list[float] = []

    async def log_in() -> None:
        async with precedence.turn():
            entries.append(round(watch.now - began, 6))

    await asyncio.gather(*(log_in() for _ in range(logins)))
    return entries


# The line


async def test_p3_few_logins_have_their_turn_at_a_time_in_order_of_arrival() -> None:
    precedence = PredictionsFirst(at_a_time=2, most_in_line=4)
    entered: list[int] = []
    may_leave = [asyncio.Event() for _ in range(4)]

    async def log_in(number: int) -> None:
        async with precedence.turn():
            entered.append(number)
            await may_leave[number].wait()

    logins = [asyncio.create_task(log_in(number)) for number in range(4)]
    await settled()
    assert entered == [0, 1]
    with pytest.raises(Overloaded):
        async with precedence.turn():
            pass
    for number in (1, 0):
        may_leave[number].set()
        await settled()
    assert entered == [0, 1, 2, 3]
    for event in may_leave:
        event.set()
    await asyncio.gather(*logins)
    async with precedence.turn():
        pass


async def test_a_login_that_leaves_the_line_takes_nobodys_turn() -> None:
    precedence = PredictionsFirst(at_a_time=2, most_in_line=3)
    async with AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(precedence.turn())
        waiting = asyncio.create_task(precedence.turn().__aenter__())
        await settled()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        # It stands in line no more, so there is room for another.
        waiting = asyncio.create_task(held.enter_async_context(precedence.turn()))
        await settled()
        assert not waiting.done()
        await held.pop_all().aclose()
        await waiting


async def test_nobody_stands_in_line_for_ever() -> None:
    precedence = PredictionsFirst(at_a_time=1, within_s=0.01)
    async with precedence.turn():
        with pytest.raises(Overloaded):
            await precedence.turn().__aenter__()
    async with precedence.turn():
        pass


# The time between two


async def test_p3_logins_come_one_by_one_while_predictions_are_served() -> None:
    watch = Watch()
    precedence = watched(watch, apart_s=0.1)
    serve_one(precedence)
    assert await entered_at(precedence, watch, 5) == [0.0, 0.1, 0.2, 0.3, 0.4]


async def test_p3_logins_do_not_wait_for_predictions_that_nobody_asks_for() -> None:
    watch = Watch()
    precedence = watched(watch, apart_s=0.1)
    assert await entered_at(precedence, watch, 5) == [0.0] * 5
    serve_one(precedence)
    watch.now += SERVING_FOR_S
    assert await entered_at(precedence, watch, 5) == [0.0] * 5


async def test_p3_one_long_prediction_counts_until_it_is_over() -> None:
    watch = Watch()
    precedence = watched(watch, apart_s=0.1)
    precedence.enter()
    watch.now += 10 * SERVING_FOR_S
    assert await entered_at(precedence, watch, 3) == [0.0, 0.1, 0.2]


async def test_a_login_now_and_then_waits_for_nothing() -> None:
    watch = Watch()
    precedence = watched(watch, apart_s=0.1)
    for _ in range(3):
        serve_one(precedence)
        assert await entered_at(precedence, watch, 1) == [0.0]
        watch.now += 0.2


async def test_a_login_that_leaves_while_it_is_kept_apart_gives_its_turn_back() -> None:
    precedence = PredictionsFirst(at_a_time=1, most_in_line=1, apart_s=3600)
    precedence.enter()
    async with precedence.turn():
        pass
    waiting = asyncio.create_task(precedence.turn().__aenter__())
    await settled()
    assert not waiting.done()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    # There is one turn and room for one in line: both are free again, or this would be refused.
    waiting = asyncio.create_task(precedence.turn().__aenter__())
    await settled()
    assert not waiting.done()
    waiting.cancel()


# Giving way


async def test_p3_a_login_takes_its_next_step_when_no_prediction_is_under_way() -> None:
    precedence = PredictionsFirst(at_a_time=1, give_way_for_s=3600)
    precedence.enter()
    precedence.enter()
    step = asyncio.create_task(precedence.give_way())
    await settled()
    precedence.leave()
    await settled()
    assert not step.done()
    precedence.leave()
    await step


async def test_p3_a_prediction_that_is_on_its_way_goes_first() -> None:
    precedence = PredictionsFirst(at_a_time=1, give_way_for_s=3600)
    order: list[str] = []

    async def predict() -> None:
        precedence.enter()
        await settled()
        order.append("prediction")
        precedence.leave()

    async def log_in() -> None:
        await precedence.give_way()
        order.append("login")

    # The login's step could begin at once; the prediction is what the loop finds next.
    await asyncio.gather(log_in(), predict())
    assert order == ["prediction", "login"]


async def test_p3_of_many_logins_one_step_is_done_between_two_looks_at_the_network() -> None:
    precedence = PredictionsFirst(at_a_time=1)
    rounds = 0
    done_in: list[int] = []

    async def log_in() -> None:
        await precedence.give_way()
        done_in.append(rounds)

    logins = [asyncio.create_task(log_in()) for _ in range(50)]
    while not all(login.done() for login in logins):
        await asyncio.sleep(0)
        rounds += 1
    assert len(set(done_in)) == 50


async def test_p3_logins_get_on_where_there_is_never_a_moment_without_a_prediction() -> None:
    precedence = PredictionsFirst(at_a_time=1, give_way_for_s=0.001)
    precedence.enter()
    await asyncio.gather(*(precedence.give_way() for _ in range(3)))


async def test_who_leaves_while_giving_way_holds_nobody_up() -> None:
    precedence = PredictionsFirst(at_a_time=1, give_way_for_s=3600)
    precedence.enter()
    leaving, next_one = (asyncio.create_task(precedence.give_way()) for _ in range(2))
    await settled()
    leaving.cancel()
    await settled()
    assert not next_one.done()
    precedence.leave()
    await next_one
