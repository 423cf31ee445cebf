"""Opens admission and what belongs to it: in this process, or on Redis with something to fall back on."""

from contextlib import AsyncExitStack
from pathlib import Path

from backend.adapters.breaker import Breaker
from backend.adapters.db.engine import parse_url
from backend.adapters.fallback import FallbackAdmission, FallbackLoginThrottle
from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.memory.change_signal import ChangeSignal, FileSignal, NoSignal
from backend.adapters.memory.local_share import LocalShare
from backend.adapters.memory.login_throttle import MemoryLoginThrottle
from backend.adapters.redis.admission import RedisAdmission
from backend.adapters.redis.connection import open_line
from backend.adapters.redis.login_throttle import RedisLoginThrottle
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.waiting_usage import RedisWaitingUsage
from backend.adapters.usage_spill import NothingWaits
from backend.composition.periodic import run_periodically
from backend.domain.clock import Clock
from backend.services.ports import LoginThrottle, Metrics, QuotaHistory, WaitingUsage
from backend.settings import Settings

ADMISSION_EVERY_S = 0.25


def signal_of(settings: Settings) -> ChangeSignal:
    """Return how processes tell each other of changes: through Redis, or beside the SQLite file that they share."""
    database = parse_url(settings.database_url)
    if settings.redis_url is not None or database.get_backend_name() != "sqlite" or not database.database:
        return NoSignal()
    return FileSignal(Path(f"{database.database}.epoch").absolute())


async def open_admission(
    settings: Settings,
    stack: AsyncExitStack,
    clock: Clock,
    history: QuotaHistory,
    signal: ChangeSignal,
    metrics: Metrics,
) -> tuple[MemoryAdmission | RedisAdmission, LoginThrottle, WaitingUsage]:
    """Return admission, login throttle and what waits for the ledger: in this process, or on Redis by one way there.

    Raises:
        UnusableRedisUrl: the address is none.
    """
    if settings.redis_url is None:
        memory = MemoryAdmission(
            clock, history, cache_bytes=settings.cache_bytes, cache_ttl_s=settings.cache_ttl_s, signal=signal
        )
        return memory, MemoryLoginThrottle(clock), NothingWaits()
    line = open_line(settings.redis_url, settings.redis_timeout_s)
    stack.push_async_callback(line.aclose)
    runner = ScriptRunner(line, Breaker("redis", metrics))
    admission = RedisAdmission(runner, history, cache_ttl_s=settings.cache_ttl_s)
    return admission, RedisLoginThrottle(runner), RedisWaitingUsage(runner)


async def open_fallback(
    settings: Settings,
    stack: AsyncExitStack,
    admission: MemoryAdmission | RedisAdmission,
    throttle: LoginThrottle,
    history: QuotaHistory,
    clock: Clock,
    metrics: Metrics,
) -> tuple[MemoryAdmission | FallbackAdmission, LoginThrottle]:
    """Return admission and login throttle as a server uses them: with something to fall back on where they may fail."""
    if isinstance(admission, MemoryAdmission):
        return admission, throttle
    falling_back = FallbackAdmission(
        admission,
        LocalShare(clock, processes=settings.replicas * settings.workers),
        history,
        clock,
        metrics,
        distrust_s=settings.key_cache_ttl_s,
    )
    # What was kept for Redis is told once more before the end.
    stack.push_async_callback(falling_back.catch_up)
    await run_periodically(stack, "admission", falling_back.catch_up, every_s=ADMISSION_EVERY_S)
    return falling_back, FallbackLoginThrottle(throttle, MemoryLoginThrottle(clock))
