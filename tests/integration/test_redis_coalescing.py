"""The line that asks once for everybody: whose answer is whose, whatever happens in between."""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backend.adapters.redis import open_line
from backend.adapters.redis.coalescing import AT_ONCE, _Wire
from backend.adapters.redis.line import OUTAGES, Line, Script
from tests.integration.outages import Patient, patient
from tests.redis_client import connect
from tests.server_process import Server

pytestmark = pytest.mark.anyio

PATIENT_S = 10.0
BOUND_S = 0.1
SLACK_S = 1.0


class Echo(Script):
    """Answers with what it was asked."""

    def __init__(self) -> None:
        super().__init__("announce")
        self.source = "return {KEYS[1], ARGV[1]}"
        self.digest = "0" * 40  # Unknown to the server: each call is a NOSCRIPT first.


@pytest.fixture
async def redis(start_private_redis: Callable[[], Server]) -> AsyncIterator[Patient]:
    async with patient(start_private_redis()) as found:
        yield found


@asynccontextmanager
async def asked(redis: Patient, timeout_s: float = PATIENT_S) -> AsyncIterator[Line]:
    async with aclosing(open_line(redis.url, timeout_s)) as line:
        yield line


async def echo(line: Line, number: int) -> None:
    assert await line.run(Echo(), [f"k{number}"], [number]) == [f"k{number}".encode(), str(number).encode()]


async def packets(client: Redis, name: str) -> int:
    stats = await client.info("stats")
    return int(stats[name])


async def test_everybody_gets_his_own_answer(redis: Patient) -> None:
    async with asked(redis) as line:
        await asyncio.gather(*[echo(line, number) for number in range(300)])


async def test_calls_of_one_turn_leave_together_over_one_connection(redis: Patient) -> None:
    async with asked(redis) as line, aclosing(connect(redis.server.url, PATIENT_S)) as client:
        await line.ping()
        before = await packets(client, "total_reads_processed")
        await asyncio.gather(*[line.ping() for _ in range(200)])
        # One for the looking client itself; a long write may arrive in a few pieces.
        assert await packets(client, "total_reads_processed") - before <= 10
        assert len(await client.client_list()) == 2


def test_the_first_calls_of_a_turn_leave_before_it_ends_and_the_others_then() -> None:
    async def check() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            _, wire = await loop.create_unix_connection(_Wire, sock=ours)
            calls = [b"%d;" % number for number in range(AT_ONCE + 3)]
            for _ in range(3):
                for call in calls:
                    wire.send(call, loop.time() + PATIENT_S).cancel()
                assert theirs.recv(1000) == b"".join(calls[:AT_ONCE])
                await asyncio.sleep(0)
                assert theirs.recv(1000) == b"".join(calls[AT_ONCE:])
            wire.give_up(ConnectionError())

    # It keeps what is written until a turn ends, unless it is told not to.
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(check())
    finally:
        loop.close()


async def test_whoever_leaves_keeps_his_place(redis: Patient) -> None:
    """Cancelled before sending, while waiting, and by a bound of his own: no answer goes to a neighbour."""
    numbers = random.Random(7)
    async with asked(redis) as line:
        await echo(line, 0)
        for _ in range(30):
            tasks = [asyncio.create_task(echo(line, number)) for number in range(40)]
            for _ in range(numbers.randrange(4)):
                await asyncio.sleep(0)
            leaving = set(numbers.sample(tasks, 20))
            for task in leaving:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for task, outcome in zip(tasks, outcomes, strict=True):
                assert outcome is None or (task in leaving and isinstance(outcome, asyncio.CancelledError))
        async with asyncio.timeout(PATIENT_S):
            await echo(line, 41)


async def test_a_callers_own_timeout_shifts_nobodys_answer(redis: Patient) -> None:
    async with asked(redis) as line:
        await echo(line, 0)
        redis.wire.go_silent()
        impatient = [asyncio.create_task(asyncio.wait_for(echo(line, number), 0.01)) for number in range(20)]
        patient_ones = [asyncio.create_task(echo(line, number)) for number in range(20, 40)]
        for outcome in await asyncio.gather(*impatient, return_exceptions=True):
            assert isinstance(outcome, TimeoutError)
        redis.wire.go_on()
        await asyncio.gather(*patient_ones)


async def test_an_error_is_its_own_callers(redis: Patient) -> None:
    failing = Echo()
    failing.source = "return redis.call('NO-SUCH-COMMAND')"
    async with asked(redis) as line:
        tasks = [
            asyncio.create_task(line.run(failing, ["k"], [1]) if number % 3 == 0 else echo(line, number))
            for number in range(60)
        ]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(outcome, RedisError) for outcome in outcomes] == [number % 3 == 0 for number in range(60)]


async def test_l3_a_silent_server_fails_everybody_within_the_bound_and_a_new_connection_serves(redis: Patient) -> None:
    async with asked(redis, BOUND_S) as line:
        await line.ping()
        redis.wire.go_silent()
        began = time.monotonic()
        outcomes = await asyncio.gather(*[line.ping() for _ in range(50)], return_exceptions=True)
        assert time.monotonic() - began < BOUND_S + SLACK_S
        assert all(isinstance(outcome, OUTAGES) for outcome in outcomes)
        redis.wire.go_on()
        async with asyncio.timeout(PATIENT_S):
            while True:
                try:
                    # Late answers to those who gave up are not taken for these.
                    await asyncio.gather(*[line.write(f"k{number}", str(number), 60) for number in range(20)])
                    found = await line.read([f"k{number}" for number in range(20)])
                except OUTAGES:
                    continue
                assert found == [str(number).encode() for number in range(20)]
                return


async def test_a_server_that_restarts_is_connected_to_anew(redis: Patient) -> None:
    async with asked(redis) as line:
        await echo(line, 1)
        redis.server.kill()
        with pytest.raises(OUTAGES):
            await line.ping()
        redis.server.start()
        await asyncio.gather(*[echo(line, number) for number in range(20)])


async def test_connecting_is_bounded_and_shared(start_private_redis: Callable[[], Server]) -> None:
    server = start_private_redis()
    server.pause()
    async with patient(server) as redis, asked(redis, BOUND_S) as line:
        began = time.monotonic()
        outcomes = await asyncio.gather(*[line.ping() for _ in range(50)], return_exceptions=True)
        assert time.monotonic() - began < BOUND_S + SLACK_S
        assert all(isinstance(outcome, OUTAGES) for outcome in outcomes)
        server.resume()


async def test_signing_in_and_the_database_number(redis: Patient) -> None:
    await redis.configure("ACL", "SETUSER", "app", "on", ">p@ss/word", "~*", "+@all")
    url = redis.url.replace("redis://", "redis://app:p%40ss%2Fword@")
    async with aclosing(open_line(f"{url}/3", PATIENT_S)) as line:
        await line.write("where", "here", 60)
    async with aclosing(connect(f"{redis.server.url}/3", PATIENT_S)) as client:
        assert await client.get("where") == b"here"
    async with aclosing(open_line(redis.url.replace("redis://", "redis://app:wrong@"), PATIENT_S)) as line:
        with pytest.raises(RedisError):
            await line.ping()


async def test_who_closes_in_the_middle_leaves_nothing_behind(redis: Patient) -> None:
    line = open_line(redis.url, PATIENT_S)
    await line.ping()
    redis.wire.go_silent()
    waiting = [asyncio.create_task(line.ping()) for _ in range(5)]
    await asyncio.sleep(0)
    await line.aclose()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, OUTAGES)
    unused = open_line(redis.url, PATIENT_S)
    await unused.aclose()
