"""Hashing beside the server: how many processes there are, what becomes of them, and who has to wait."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import argon2

from backend.adapters.crypto.passwords import Argon2Passwords
from backend.domain.errors import Overloaded, Unavailable

pytestmark = pytest.mark.anyio

PASSWORD = "seven purple elephants dance"
STORED = argon2.using(type="ID", memory_cost=1024, rounds=1, parallelism=1).hash(PASSWORD)
FOR_MINUTES = 20_000
"""Rounds that nobody sees the end of."""

NewPool = Callable[..., Argon2Passwords]

SERVER = """
import asyncio
from backend.adapters.crypto.passwords import Argon2Passwords

async def serve():
    passwords = Argon2Passwords(processes=2)
    stored = await passwords.hash("seven purple elephants dance")
    await asyncio.gather(*(passwords.verify("seven purple elephants dance", stored) for _ in range(8)))
    print(*passwords.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.fixture
def new_pool() -> Iterator[NewPool]:
    pools: list[Argon2Passwords] = []

    def make(**options: Any) -> Argon2Passwords:
        pools.append(Argon2Passwords(**options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


async def started(passwords: Argon2Passwords) -> int:
    """Wait for a process; return its id."""
    while not passwords.pids:
        await asyncio.sleep(0)
    [pid] = passwords.pids
    return pid


def is_gone(pid: int) -> bool:
    """Whether a child of ours has ended and was asked how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# How many, and at whose cost


async def test_p3_no_process_is_started_before_there_is_something_to_hash(new_pool: NewPool) -> None:
    passwords = new_pool()
    assert not passwords.pids
    await passwords.verify(PASSWORD, STORED)
    assert len(passwords.pids) == 1


async def test_p3_hashing_leaves_the_event_loop_free_and_takes_no_more_processes_than_its_pool(
    new_pool: NewPool,
) -> None:
    passwords = new_pool(processes=2)
    hashing = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(6)]
    turns, most = 0, 0
    while not all(task.done() for task in hashing):
        # To spin would take a processor from those who hash, and give way to everybody.
        await asyncio.sleep(0.001)
        turns, most = turns + 1, max(most, len(passwords.pids))
    # A loop that waited for each hash would come round six times.
    assert turns > 20
    assert most == 2
    assert len({task.result() for task in hashing}) == 6


async def test_p3_the_processes_that_hash_give_way_to_every_other(new_pool: NewPool) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    passwords = new_pool()
    await passwords.verify(PASSWORD, STORED)
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in passwords.pids} == {19}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


async def test_each_caller_gets_the_answer_to_its_own_question(new_pool: NewPool) -> None:
    passwords = new_pool(processes=2)
    asked = [PASSWORD if number % 3 == 0 else f"{PASSWORD} {number}" for number in range(30)]
    answers = await asyncio.gather(*(passwords.verify(password, STORED) for password in asked))
    assert answers == [password == PASSWORD for password in asked]


# Too much of it


async def test_p3_more_callers_than_may_wait_are_refused_at_once(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1, most_asking=2)
    served = [asyncio.create_task(passwords.verify(PASSWORD, STORED)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await passwords.verify(PASSWORD, STORED)
    assert await asyncio.gather(*served) == [True, True]
    assert await passwords.verify(PASSWORD, STORED)


async def test_a_hash_that_takes_too_long_is_given_up_with_its_process(new_pool: NewPool) -> None:
    passwords = new_pool(rounds=FOR_MINUTES, within_s=0.05)
    asking = asyncio.create_task(passwords.hash(PASSWORD))
    pid = await started(passwords)
    with pytest.raises(Overloaded):
        await asking
    assert is_gone(pid)
    assert not passwords.pids


async def test_a_caller_who_leaves_does_not_leave_its_answer_to_the_next(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1, rounds=FOR_MINUTES)
    leaving = asyncio.create_task(passwords.hash(PASSWORD))
    await started(passwords)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    assert await passwords.verify(PASSWORD, STORED) is True


# What becomes of the processes


async def test_a_process_that_died_is_replaced(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1)
    await passwords.verify(PASSWORD, STORED)
    [first] = passwords.pids
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert await passwords.verify(PASSWORD, STORED) is True
    [second] = passwords.pids
    assert second != first
    assert is_gone(first)


async def test_a_question_whose_process_died_is_asked_once_more(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1)
    asking = asyncio.create_task(passwords.verify(PASSWORD, STORED))
    first = await started(passwords)
    os.kill(first, signal.SIGKILL)
    assert await asking is True
    assert first not in passwords.pids


async def test_a_question_that_no_process_survives_is_refused(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1, rounds=FOR_MINUTES)
    asking = asyncio.create_task(passwords.hash(PASSWORD))
    killed: set[int] = set()
    while not asking.done():
        for pid in passwords.pids - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await asking
    assert len(killed) == 2
    assert await passwords.verify(PASSWORD, STORED) is True


async def test_what_cannot_be_compared_is_said_without_quoting_it_and_costs_no_process(new_pool: NewPool) -> None:
    passwords = new_pool(processes=1)
    await passwords.verify(PASSWORD, STORED)
    pids = passwords.pids
    with pytest.raises(ValueError, match="cannot be hashed or compared") as refused:
        await passwords.verify(PASSWORD, "no hash")
    assert PASSWORD not in str(refused.value)
    assert "no hash" not in str(refused.value)
    assert passwords.pids == pids


async def test_closing_leaves_no_process_and_nobody_waiting(new_pool: NewPool) -> None:
    passwords = new_pool(processes=2, rounds=FOR_MINUTES)
    assert await passwords.verify(PASSWORD, STORED)
    asking = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(3)]
    while len(passwords.pids) < 2:
        await asyncio.sleep(0)
    pids = passwords.pids
    passwords.close()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Overloaded] * 3
    assert all(is_gone(pid) for pid in pids)
    with pytest.raises(Overloaded):
        await passwords.verify(PASSWORD, STORED)
    assert not passwords.pids


# Beside a server


@contextmanager
def server() -> "Iterator[subprocess.Popen[bytes]]":
    environment = os.environ | {"FORECOURT_SECRET_KEY": "not-for-the-processes"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
async def test_the_processes_end_with_the_server_however_that_one_ends(end: signal.Signals) -> None:
    with server() as process:
        assert process.stdout is not None
        assert len(process.stdout.readline().split()) == 2
        process.send_signal(end)
        # All of them write their complaints to the same pipe: it ends when the last of them has.
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == -end
    assert complaints == b""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
async def test_p3_no_secret_stands_where_other_processes_can_read_it() -> None:
    with server() as process:
        assert process.stdout is not None
        for pid in process.stdout.readline().decode().split():
            for kind in ("environ", "cmdline"):
                shown = Path(f"/proc/{pid}/{kind}").read_bytes()
                assert b"PATH=" in shown or kind == "cmdline"
                assert b"FORECOURT_" not in shown
                assert PASSWORD.encode() not in shown
