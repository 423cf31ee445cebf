"""Opens what usage goes through: the ledger, and where usage waits for it."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from backend.adapters.db.engine import open_engine
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.write_turns import WriteTurns
from backend.adapters.redis.connection import open_line
from backend.adapters.redis.line import Line
from backend.adapters.redis.usage_spill import READ_WITHIN_S, RedisUsageSpill
from backend.adapters.usage_spill import NoSpill
from backend.domain.clock import Clock
from backend.services.ports import Metrics
from backend.settings import Settings

LEDGER_CONNECTIONS = 4
"""Two for commits beside each other, one for what was spilled, one for a probe and for what is unusual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """The ledger, started, and what stands beside it where there is Redis."""

    ledger: GroupCommitLedger
    spill: RedisUsageSpill | None
    line: Line | None


def open_metering(
    settings: Settings, stack: AsyncExitStack, clock: Clock, metrics: Metrics, turns: WriteTurns
) -> Metering:
    """Open the ledger. It shares neither its connections nor its waits with any other request."""
    engine = open_engine(
        settings.database_url, pool_size=LEDGER_CONNECTIONS, timeout_s=settings.database_timeout_s, turns=turns
    )
    database = Database(engine)
    stack.push_async_callback(database.aclose)
    drains, spill = None, None
    if settings.redis_url is not None:
        # Lines of their own: a large batch holds no admission up, and a drain may wait longer than a caller.
        callers = open_line(settings.redis_url, settings.redis_timeout_s)
        stack.push_async_callback(callers.aclose)
        drains = open_line(settings.redis_url, max(READ_WITHIN_S, settings.redis_timeout_s))
        stack.push_async_callback(drains.aclose)
        spill = RedisUsageSpill(callers, drains, limit=settings.spill_limit, metrics=metrics)
    ledger = GroupCommitLedger(
        database, metrics=metrics, spill=spill or NoSpill(), clock=clock, within_s=settings.database_timeout_s
    )
    ledger.start()
    stack.push_async_callback(ledger.aclose)
    return Metering(ledger=ledger, spill=spill, line=drains)
