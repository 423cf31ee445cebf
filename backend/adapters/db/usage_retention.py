"""Lets usage expire: the events of whole months that every tenant has closed, once nobody has to keep them.

What they came to stays: roll-ups, closed periods with their statements, adjustments. Which tenants' periods have
expired is on record, so that whoever asks for their events is told so, and an event that comes back after all is not
taken for a new one.

The rules are the database's own (migration 0013): on PostgreSQL those of a function of the tables' owner, on SQLite
those of the ledger's triggers.
"""

import asyncio

from sqlalchemy import TextClause, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from backend.adapters.db.engine import for_writing, translated_errors
from backend.adapters.db.tables import UtcDateTime
from backend.domain.clock import Clock
from backend.domain.errors import StoreUnavailable
from backend.domain.limits import period_of, period_start_s

BATCH_EVENTS = 2_000
TRIES = 20
PAUSE_S = 0.5
_HELD_UP = ("55P03", "40P01")

_EXPIRE = text("SELECT public.forecourt_expire_usage_month(:before)")
_DROP = text("SELECT public.forecourt_drop_expired_usage()")

_PAIRS = """
WITH RECURSIVE pairs AS (
  SELECT * FROM (SELECT tenant_id, period FROM usage_events ORDER BY tenant_id, period LIMIT 1)
  UNION ALL
  SELECT following.tenant_id, following.period FROM pairs JOIN usage_events AS following ON following.position = (
    SELECT event.position FROM usage_events AS event
    WHERE (event.tenant_id, event.period) > (pairs.tenant_id, pairs.period)
    ORDER BY event.tenant_id, event.period LIMIT 1))
"""
# A month is ready when every tenant has closed it, and all of it is rolled up.
_READY = text(
    _PAIRS  # noqa: S608  # constants of this file
    + """
SELECT pairs.period FROM pairs
LEFT JOIN closed_periods AS closed ON closed.tenant_id = pairs.tenant_id AND closed.period = pairs.period
LEFT JOIN expired_periods AS expired ON expired.tenant_id = pairs.tenant_id AND expired.period = pairs.period
WHERE pairs.period < :before
GROUP BY pairs.period
HAVING count(closed.period) = count(*) AND count(expired.period) < count(*) AND NOT EXISTS (
  SELECT 1 FROM usage_events AS event, usage_checkpoints AS folded
  WHERE folded.name = 'rollups' AND event.position > folded."row" AND event.period = pairs.period)
ORDER BY pairs.period
"""
)
_RECORD = text(
    _PAIRS
    + """
INSERT INTO expired_periods (tenant_id, period, expired_at)
SELECT tenant_id, period, :at FROM pairs WHERE period = :period ON CONFLICT DO NOTHING
"""
).bindparams(bindparam("at", type_=UtcDateTime()))
_DELETE = text(
    """
DELETE FROM usage_events WHERE position IN (
  SELECT event.position FROM expired_periods AS expired
  JOIN usage_events AS event ON event.tenant_id = expired.tenant_id AND event.period = expired.period
  LIMIT :count)
"""
)


class SqlUsageRetention:
    """Keeps events for so many months after their own.

    Args:
        engine: with a bound on its answers that the removal of the largest month keeps.
        clock: says which month it is.
        keep_months: whole months before this one whose events are kept.
    """

    def __init__(self, engine: AsyncEngine, clock: Clock, *, keep_months: int) -> None:
        self._engine = engine
        self._clock = clock
        self._keep_months = keep_months
        self._is_sqlite = engine.dialect.name == "sqlite"

    async def expire(self) -> int:
        """Let every month expire that may; return how many began to. Any number of copies may run.

        Raises:
            StoreUnavailable: the store does not answer, or readers held a month up for long.
        """
        before = self._oldest_kept()
        return await (self._delete(before) if self._is_sqlite else self._detach(before))

    def _oldest_kept(self) -> str:
        period = period_of(self._clock.now_s())
        for _ in range(self._keep_months):
            period = period_of(period_start_s(period) - 1)
        return period

    async def _detach(self, before: str) -> int:
        count = 0
        while await self._call(_EXPIRE, before=before) is not None:
            count += 1
        # Also what another process had taken out when it was cut off.
        await self._call(_DROP)
        return count

    async def _call(self, function: TextClause, **values: str) -> object:
        """Call a function that gives up soon when others are in its way, so that they never wait for it."""
        for attempt in range(TRIES):
            try:
                with translated_errors():
                    async with self._engine.begin() as connection:
                        return await connection.scalar(function, values)
            except StoreUnavailable as error:
                if attempt == TRIES - 1 or not _is_held_up(error.__cause__):
                    raise
                await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")

    async def _delete(self, before: str) -> int:
        engine = for_writing(self._engine)
        with translated_errors():
            async with engine.begin() as connection:
                # In one transaction with the question: the write lock keeps everybody from adding to it.
                ready = list(await connection.scalars(_READY, {"before": before}))
                for period in ready:
                    await connection.execute(_RECORD, {"period": period, "at": self._clock.now()})
            # In pieces: predictions wait for a writer. Whatever is recorded and still there goes, whoever recorded it.
            while True:
                async with engine.begin() as connection:
                    if (await connection.execute(_DELETE, {"count": BATCH_EVENTS})).rowcount < 1:
                        return len(ready)


def _is_held_up(error: BaseException | None) -> bool:
    """Whether a lock was not to be had in time."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _HELD_UP
