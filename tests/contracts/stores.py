"""Every admission adapter with what it keeps its state in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio import Redis

from backend.adapters.fallback import FallbackAdmission
from backend.adapters.memory import MemoryAdmission
from backend.adapters.memory.local_share import LocalShare
from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.redis import RedisAdmission, ScriptRunner
from backend.adapters.redis.line import Line
from backend.services.ports import Admission, HealthProbe
from tests.fakes import FakeClock, FakeHistory

CACHE_TTL_S = 300.0
LEASE_TTL_S = 60.0
PATIENT_S = 10.0


class ProbedAdmission(Admission, HealthProbe, Protocol):
    """What every admission adapter is."""


@dataclass(frozen=True, slots=True)
class Store:
    """``lose`` is a restart of the process, or a flush of the server; ``open`` is the adapter afterwards."""

    open: Callable[[], ProbedAdmission]
    lose: Callable[[], Awaitable[None]]


def memory_store(clock: FakeClock, history: FakeHistory) -> Store:
    def start() -> MemoryAdmission:
        return MemoryAdmission(clock, history, cache_bytes=1_000_000, cache_ttl_s=CACHE_TTL_S, lease_ttl_s=LEASE_TTL_S)

    running = [start()]

    async def lose() -> None:
        running[:] = [start()]

    return Store(lambda: running[0], lose)


def redis_store(line: Line, client: Redis, clock: FakeClock, history: FakeHistory) -> Store:
    admission = RedisAdmission(
        ScriptRunner(line), history, cache_ttl_s=CACHE_TTL_S, lease_ttl_s=LEASE_TTL_S, clock=clock
    )

    async def lose() -> None:
        await client.flushdb()

    return Store(lambda: admission, lose)


def fallback_store(line: Line, client: Redis, clock: FakeClock, history: FakeHistory) -> Store:
    """The server shape's admission as it is composed there, while nothing is wrong."""
    shared = RedisAdmission(ScriptRunner(line), history, cache_ttl_s=CACHE_TTL_S, lease_ttl_s=LEASE_TTL_S, clock=clock)
    local = LocalShare(clock, processes=2)
    admission = FallbackAdmission(shared, local, history, clock, NullMetrics(), distrust_s=30.0)

    async def lose() -> None:
        await client.flushdb()

    return Store(lambda: admission, lose)
