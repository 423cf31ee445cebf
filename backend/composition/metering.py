"""Opens what usage goes through: the ledger, where usage waits for it, and the drain between the two."""

from contextlib import AsyncExitStack

from backend.adapters.db.engine import open_engine
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.unit_of_work import Database
from backend.adapters.redis.connection import open_line
from backend.adapters.redis.usage_spill import READ_WITHIN_S, RedisUsageSpill
from backend.adapters.usage_spill import NoSpill, SpillDrain
from backend.composition.periodic import run_periodically
from backend.services.ports import Metrics
from backend.settings import Settings

DRAIN_EVERY_S = 1.0
LEDGER_CONNECTIONS = 2


async def open_ledger(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> GroupCommitLedger:
    """Return the ledger, started. It shares neither its connections nor its waits with any other request."""
    engine = open_engine(settings.database_url, pool_size=LEDGER_CONNECTIONS, timeout_s=settings.database_timeout_s)
    database = Database(engine)
    stack.push_async_callback(database.aclose)
    spill = _open_spill(settings, stack, metrics)
    ledger = GroupCommitLedger(
        database, metrics=metrics, spill=spill or NoSpill(), within_s=settings.database_timeout_s
    )
    ledger.start()
    stack.push_async_callback(ledger.aclose)
    if spill is not None:
        drain = SpillDrain(spill, ledger, metrics=metrics)
        await run_periodically(stack, "spill drain", drain.run, every_s=DRAIN_EVERY_S)
    return ledger


def _open_spill(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> RedisUsageSpill | None:
    if settings.redis_url is None:
        return None
    # Lines of their own: a large batch holds no admission up, and a drain may wait longer than a caller.
    callers = open_line(settings.redis_url, settings.redis_timeout_s)
    stack.push_async_callback(callers.aclose)
    drains = open_line(settings.redis_url, max(READ_WITHIN_S, settings.redis_timeout_s))
    stack.push_async_callback(drains.aclose)
    return RedisUsageSpill(callers, drains, limit=settings.spill_limit, metrics=metrics)
