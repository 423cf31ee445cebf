"""Opens what usage goes through: the ledger, where usage waits for it, and the drain between the two."""

from contextlib import AsyncExitStack

from backend.adapters.db.engine import open_engine
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.unit_of_work import Database
from backend.adapters.redis.connection import connect
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.adapters.usage_spill import NoSpill, SpillDrain
from backend.composition.periodic import run_periodically
from backend.services.ports import Metrics
from backend.settings import Settings

DRAIN_EVERY_S = 1.0
LEDGER_CONNECTIONS = 2
SPILL_CONNECTIONS = 4


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
    client = connect(settings.redis_url, timeout_s=settings.redis_timeout_s, max_connections=SPILL_CONNECTIONS)
    stack.push_async_callback(client.aclose)
    return RedisUsageSpill(client, limit=settings.spill_limit, timeout_s=settings.redis_timeout_s, metrics=metrics)
