"""Writes usage events: one commit for a batch, whoever's events they are, and each id once.

A batch whose commit was cut off may or may not be in the ledger, so it is written again with ``ON CONFLICT DO
NOTHING``: the event id decides. This is the only place that inserts events, whether they come from a request or out
of the spill, so whatever a period that is closed asks of a late event belongs here.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg
from sqlalchemy import select, text, tuple_
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from backend.adapters.db.engine import for_writing
from backend.adapters.db.event_inserts import Identity, InsertsOnPostgresql, InsertsOnSqlite, identity_of
from backend.adapters.db.late_events import book_late_events
from backend.adapters.db.row_security import show_all_tenants
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.usage_spill import Stored
from backend.domain.clock import Clock, SystemClock
from backend.domain.errors import MeteringUnavailable
from backend.domain.limits import period_of
from backend.domain.usage import UsageEvent
from backend.services.ports import Metrics

log = logging.getLogger(__name__)

GRACE_S = 0.3
PAUSE_S = 0.05
_CHECK_VIOLATION = "23514"
# Nothing that trying again, or another database, would change.
_UNFIT = (
    DataError,
    IntegrityError,
    psycopg.DataError,
    psycopg.IntegrityError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    ValueError,
    TypeError,
    OverflowError,
)


class SqlEventStore:
    """Implements ``EventStore``.

    Args:
        database: with connections that requests do not use up, so that metering never waits behind them.
        within_s: bound on a write, a second attempt included. The database's own bound on a statement is the same,
            and answers first: only a silent one is left alone.
        metrics: where conflicts and failures are counted.
        clock: decides which months are over, so that their events may be late.
    """

    def __init__(self, database: Database, *, within_s: float, metrics: Metrics, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._engine = for_writing(database.engine, first=True)
        self._is_sqlite = database.engine.dialect.name == "sqlite"
        self._inserts = (InsertsOnSqlite if self._is_sqlite else InsertsOnPostgresql)(database.engine)
        self.prepare = self._inserts.prepare
        """Does what can be done already of writing an event."""
        self._within_s = within_s
        self._conflicts = metrics.counter(
            "forecourt_ledger_conflicts_total", "Usage events whose id the ledger holds with another content."
        )
        self._failures = metrics.counter("forecourt_ledger_failures_total", "Commits of usage events that failed.")

    async def write(self, events: Sequence[UsageEvent]) -> list[Stored]:
        """Write events in one commit; say of each what became of it.

        Raises:
            MeteringUnavailable: nothing can be said of any of them, within the bound.
        """
        if not events:
            return []
        try:
            async with asyncio.timeout(self._within_s + GRACE_S):
                return await self._write_again(events)
        except TimeoutError as error:
            self._failures.add()
            raise MeteringUnavailable(retry_after_s=1) from error

    async def aclose(self) -> None:
        """Give the connections back that were kept for batches."""
        await self._inserts.aclose()

    async def probe(self) -> None:
        """Find out whether a write could succeed, without writing an event.

        Raises:
            Exception: whatever the database has against it.
        """
        async with asyncio.timeout(self._within_s), self._engine.begin() as connection:
            if self._is_sqlite:
                # A real commit of what is there already: it needs the lock, the permission and the room on the disk.
                version = (await connection.exec_driver_sql("PRAGMA user_version")).scalar_one()
                await connection.exec_driver_sql(f"PRAGMA user_version = {int(version)}")
            else:
                await connection.execute(text("LOCK TABLE usage_events IN ROW EXCLUSIVE MODE"))
                # A number of its own is what a standby, and a server without room, cannot give.
                await connection.execute(text("SELECT pg_current_xact_id()"))

    async def _write_again(self, events: Sequence[UsageEvent]) -> list[Stored]:
        """Write; once more after a deadlock or a lost connection, which the next attempt may not meet."""
        now_s = asyncio.get_running_loop().time
        # After a wait that used the time up, such as for a lock, there is none to wait again.
        again_until_s = now_s() + self._within_s / 2 + GRACE_S
        for attempt in (1, 2):
            try:
                return await self._write(events)
            except Exception as error:
                if isinstance(error, _UNFIT) and not _is_rerouted(error):
                    return await self._write_one_by_one(events, error)
                # The class is enough: a driver's message may hold values.
                log.debug("ledger batch failed", extra={"attempt": attempt, "cause": type(error).__name__})
                self._failures.add()
                if attempt > 1 or now_s() > again_until_s:
                    raise MeteringUnavailable(retry_after_s=1) from error
                # Whom a deadlock let go first must have time to go.
                await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")

    async def _write_one_by_one(self, events: Sequence[UsageEvent], error: Exception) -> list[Stored]:
        """Find the event that no database takes: it must not cost the others their place."""
        if len(events) == 1:
            log.error("usage event cannot be stored", extra={"event_id": events[0].id, "cause": type(error).__name__})
            return [Stored.UNFIT]
        return [outcome for event in events for outcome in await self._write_again([event])]

    async def _write(self, events: Sequence[UsageEvent]) -> list[Stored]:
        stored_at = datetime.now(UTC)
        # In one order for all writers: two that hold the same events then wait for each other, and never deadlock.
        ordered = sorted(events, key=identity_of)
        # An event of an earlier month may be late: whether it is has to be asked in the transaction that books it.
        if not self._may_be_late(events) and await self._inserts.commit(ordered, stored_at) == len(events):
            return [Stored.DURABLE] * len(events)
        async with self._engine.begin() as connection:
            await show_all_tenants(connection)
            prints = await book_late_events(connection, ordered, self._clock)
            in_time = [event for event in ordered if identity_of(event) not in prints]
            if in_time:
                await self._inserts.put(connection, in_time, stored_at)
                prints |= await _fingerprints(connection, in_time)
        outcomes = [_outcome(prints, event) for event in events]
        self._conflicts.add(outcomes.count(Stored.CONFLICT))
        return outcomes

    def _may_be_late(self, events: Sequence[UsageEvent]) -> bool:
        current = period_of(self._clock.now_s())
        return any(event.period < current for event in events)


def _is_rerouted(error: Exception) -> bool:
    """Whether an event's month was made while it waited to go where events of no month go: now it finds its own."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) == _CHECK_VIOLATION


def _outcome(prints: dict[Identity, bytes], event: UsageEvent) -> Stored:
    if prints[identity_of(event)] == event.fingerprint():
        return Stored.DURABLE
    # Also when its caller has gone: a contradiction is never passed over in silence.
    log.error("usage event contradicts the ledger", extra={"event_id": event.id})
    return Stored.CONFLICT


async def _fingerprints(connection: AsyncConnection, events: Sequence[UsageEvent]) -> dict[Identity, bytes]:
    columns = col(UsageEventRow.tenant_id), col(UsageEventRow.event_id), col(UsageEventRow.fingerprint)
    stored = await connection.execute(
        select(*columns).where(tuple_(*columns[:2]).in_([identity_of(event) for event in events]))
    )
    return {(tenant_id, event_id): print_ for tenant_id, event_id, print_ in stored}
