"""The ledger's writer: group commit.

While one commit runs, the events that arrive collect; the next commit takes them all. There is no timer: an idle
system writes one row at once, a busy one hundreds in a commit. An event is durable when :meth:`append` returns.

A batch whose commit was cut off may or may not be in the ledger, so every batch is written again with ``ON CONFLICT
DO NOTHING``: the event id decides. An id that is there with another content is an error of its caller alone.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Insert, select, tuple_
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from backend.adapters.db.engine import for_writing
from backend.adapters.db.row_security import show_all_tenants
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.unit_of_work import Database
from backend.domain.errors import MeteringUnavailable
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.ids import TenantId
from backend.domain.usage import UsageEvent
from backend.services.ports import Metrics

log = logging.getLogger(__name__)
_ATTEMPTS = 2
_Identity = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Pending:
    event: UsageEvent
    fingerprint: bytes
    written: asyncio.Future[None]

    @property
    def identity(self) -> _Identity:
        """What is unique in the ledger."""
        return self.event.tenant_id, self.event.id


class EventConflict(MeteringUnavailable):
    """The ledger holds this event id with another content (LEDGER.md R4)."""

    default_detail = "This usage event contradicts the ledger."


class GroupCommitLedger:
    """Writes usage events in batches that form by themselves."""

    def __init__(
        self, database: Database, *, metrics: Metrics, max_batch: int = 500, max_pending: int = 20_000
    ) -> None:
        self._engine = for_writing(database.engine)
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._pending: list[_Pending] = []
        self._arrived = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closing = False
        self._failing = False
        self._conflicts = metrics.counter(
            "forecourt_ledger_conflicts_total", "Usage events whose id the ledger holds with another content."
        )
        self._batches = metrics.histogram(
            "forecourt_ledger_batch_events", "Usage events in one commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self._failures = metrics.counter("forecourt_ledger_failures_total", "Commits of usage events that failed.")

    def start(self) -> None:
        """Start the writer on the running loop."""
        self._writer = asyncio.create_task(self._write_forever(), name="ledger-writer")

    async def append(self, tenant_id: TenantId, event: UsageEvent) -> None:
        """Return once the event is durable, exactly once."""
        if event.tenant_id != tenant_id:
            raise ValueError("an event may only be booked on its own tenant")
        if self._closing or self._writer is None or len(self._pending) >= self._max_pending:
            raise MeteringUnavailable(retry_after_s=1)
        entry = _Pending(event, event.fingerprint(), asyncio.get_running_loop().create_future())
        self._pending.append(entry)
        self._arrived.set()
        # A caller who leaves must not take the event with him: the model has answered, the row is written.
        await asyncio.shield(entry.written)

    async def aclose(self) -> None:
        """Write what is pending, then stop."""
        self._closing = True
        self._arrived.set()
        if self._writer is not None:
            await self._writer

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Say whether the last batch could be written."""
        status = HealthStatus.DOWN if self._failing else HealthStatus.OK
        detail = "the last batch could not be written" if self._failing else ""
        return (ResourceHealth(name="ledger", status=status, detail=detail),)

    async def _write_forever(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._pending = self._pending[: self._max_batch], self._pending[self._max_batch :]
            if not self._pending and not self._closing:
                self._arrived.clear()
            if not batch:
                if self._closing:
                    return
                continue
            await self._write_or_fail(batch)

    async def _write_or_fail(self, batch: list[_Pending]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                conflicts = await self._write(batch)
            except Exception as error:  # noqa: BLE001  # whatever it is: a writer that dies leaves its callers waiting
                # The class is enough: a driver's message may hold values.
                log.warning("ledger batch failed", extra={"attempt": attempt, "cause": type(error).__name__})
                self._failures.add()
                self._failing = True
                continue
            self._failing = False
            self._conflicts.add(len(conflicts))
            self._batches.observe(len(batch))
            _resolve(batch, conflicts)
            return
        for entry in batch:
            if not entry.written.done():
                entry.written.set_exception(MeteringUnavailable(retry_after_s=1))
                # The caller may be gone; then nobody else would take the exception.
                entry.written.exception()

    async def _write(self, batch: Sequence[_Pending]) -> list[_Pending]:
        """Commit a batch; return those of it whose id was there already with another content."""
        stored_at = datetime.now(UTC)
        # In one order for all writers: two that hold the same events then wait for each other, and never deadlock.
        ordered = sorted(batch, key=lambda entry: entry.identity)
        async with self._engine.begin() as connection:
            # A batch holds the events of whoever called meanwhile.
            await show_all_tenants(connection)
            result = await connection.execute(self._insert(), [_values(entry, stored_at) for entry in ordered])
            if result.rowcount == len(batch):
                return []
            return await _conflicting(connection, batch)

    def _insert(self) -> Insert:
        if self._engine.dialect.name == "sqlite":
            return sqlite_insert(UsageEventRow).on_conflict_do_nothing()
        return postgresql_insert(UsageEventRow).on_conflict_do_nothing()


async def _conflicting(connection: AsyncConnection, batch: Sequence[_Pending]) -> list[_Pending]:
    columns = col(UsageEventRow.tenant_id), col(UsageEventRow.event_id), col(UsageEventRow.fingerprint)
    stored = await connection.execute(
        select(*columns).where(tuple_(*columns[:2]).in_([entry.identity for entry in batch]))
    )
    prints: dict[_Identity, bytes] = {(tenant_id, event_id): print_ for tenant_id, event_id, print_ in stored}
    return [entry for entry in batch if prints[entry.identity] != entry.fingerprint]


def _resolve(batch: Sequence[_Pending], conflicts: Sequence[_Pending]) -> None:
    for entry in conflicts:
        # Also when its caller has gone: a contradiction is never passed over in silence.
        log.error("usage event contradicts the ledger", extra={"event_id": entry.event.id})
        if not entry.written.done():
            entry.written.set_exception(EventConflict())
            entry.written.exception()
    for entry in batch:
        if not entry.written.done():
            entry.written.set_result(None)


def _values(entry: _Pending, stored_at: datetime) -> dict[str, Any]:
    event = entry.event
    return {
        "event_id": event.id,
        "tenant_id": event.tenant_id,
        "credential_id": event.credential_id,
        "environment": event.environment.value,
        "model": event.model,
        "model_version": event.model_version,
        "units": event.units,
        "cached_units": event.cached_units,
        "billable_units": event.billable_units,
        "reason": event.reason.value,
        "plan_id": event.plan_id,
        "plan_version": event.plan_version,
        "request_id": event.request_id,
        "occurred_at": event.occurred_at,
        "period": event.period,
        "fingerprint": entry.fingerprint,
        "stored_at": stored_at,
    }
