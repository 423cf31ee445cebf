"""What becomes of an event that comes after its own period has begun to close: an adjustment (LEDGER.md R5).

Whether a period is closing is asked under a lock that the close takes too, so that an event is in the period's sums or
in an adjustment, never in neither. It is asked only of events of earlier months: the current one does not close.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, text, tuple_
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from backend.adapters.db.event_inserts import Identity, identity_of
from backend.adapters.db.tables import ExpiredPeriodRow, PeriodClosingRow, UsageAdjustmentRow, UsageEventRow
from backend.domain.adjustments import AdjustmentKind
from backend.domain.audit import SYSTEM
from backend.domain.clock import Clock
from backend.domain.ids import new_id
from backend.domain.limits import period_of
from backend.domain.usage import UsageEvent

UNKNOWN = b""
"""The print of an event whose period's events have expired: nobody can say whether it was booked, so it is refused as
one that contradicts the ledger is, and an operator sees it."""
REASON = "The event reached the ledger after its period had begun to close."
_LOCK = "pg_advisory_xact_lock{}(hashtextextended(:name, 11))"
_SHARED = text(f"SELECT {_LOCK.format('_shared')}")
_EXCLUSIVE = text(f"SELECT {_LOCK.format('')}")


async def hold_period(connection: Any, tenant_id: str, period: str, *, shared: bool) -> None:
    """Keep a period from beginning to close (shared), or everybody from adding to it, until the transaction ends.

    SQLite has one writer at a time anyhow.
    """
    await connection.execute(_SHARED if shared else _EXCLUSIVE, {"name": f"{tenant_id}/{period}"})


async def book_late_events(
    connection: AsyncConnection, events: Sequence[UsageEvent], clock: Clock
) -> dict[Identity, bytes]:
    """Book those of some events whose period is closing or closed, as adjustments.

    Returns:
        The stored fingerprint of each event that is dealt with; the others go where they belong.
    """
    current = period_of(clock.now_s())
    late = [event for event in events if event.period < current]
    if not late:
        return {}
    wanted = sorted({(event.tenant_id, event.period) for event in late})
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        for tenant_id, period in wanted:
            await hold_period(connection, tenant_id, period, shared=True)
    settled = await _settled(connection, wanted)
    late = [event for event in late if (event.tenant_id, event.period) in settled]
    if not late:
        return {}
    in_time = await _stored_in_time(connection, late)
    late = [event for event in late if identity_of(event) not in in_time]
    if not late:
        return {}
    expired = await _expired(connection, wanted)
    fresh = [event for event in late if (event.tenant_id, event.period) not in expired]
    if fresh:
        insert = (sqlite_insert if is_sqlite else postgresql_insert)(UsageAdjustmentRow)
        now = clock.now()
        values = [_values(event, current, now) for event in fresh]
        await connection.execute(insert.on_conflict_do_nothing(), values)
    unknown = {identity_of(event): UNKNOWN for event in late if (event.tenant_id, event.period) in expired}
    return unknown | await _prints(connection, late)


async def _expired(connection: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the periods whose events are not kept any more."""
    columns = col(ExpiredPeriodRow.tenant_id), col(ExpiredPeriodRow.period)
    found = await connection.execute(select(*columns).where(tuple_(*columns).in_(wanted)))
    return {(tenant_id, period) for tenant_id, period in found}


async def _settled(connection: AsyncConnection, wanted: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    columns = col(PeriodClosingRow.tenant_id), col(PeriodClosingRow.period)
    found = await connection.execute(select(*columns).where(tuple_(*columns).in_(wanted)))
    return {(tenant_id, period) for tenant_id, period in found}


async def _stored_in_time(connection: AsyncConnection, events: Sequence[UsageEvent]) -> set[Identity]:
    """Return those that the ledger holds already: they were handed in before, and only the answer was lost."""
    columns = col(UsageEventRow.tenant_id), col(UsageEventRow.event_id)
    wanted = [identity_of(event) for event in events]
    found = await connection.execute(select(*columns).where(tuple_(*columns).in_(wanted)))
    return {(tenant_id, event_id) for tenant_id, event_id in found}


async def _prints(connection: AsyncConnection, events: Sequence[UsageEvent]) -> dict[Identity, bytes]:
    columns = col(UsageAdjustmentRow.tenant_id), col(UsageAdjustmentRow.event_id)
    wanted = [identity_of(event) for event in events]
    found = await connection.execute(
        select(*columns, col(UsageAdjustmentRow.fingerprint))
        .where(tuple_(*columns).in_(wanted))
        .where(col(UsageAdjustmentRow.kind) == AdjustmentKind.LATE_EVENT.value)
    )
    return {(tenant_id, str(event_id)): fingerprint or b"" for tenant_id, event_id, fingerprint in found}


def _values(event: UsageEvent, period: str, now: datetime) -> dict[str, Any]:
    return {
        "adjustment_id": new_id("adj", at_s=now.timestamp()),
        "tenant_id": event.tenant_id,
        "kind": AdjustmentKind.LATE_EVENT.value,
        "period": period,
        "corrects_period": event.period,
        "event_id": event.id,
        "units": event.units,
        "billable_units": event.billable_units,
        "plan_id": event.plan_id,
        "plan_version": event.plan_version,
        "reason": REASON,
        "actor_kind": SYSTEM.kind,
        "actor_id": SYSTEM.id,
        "created_at": now,
        "late_event": asdict(event) | {"occurred_at": event.occurred_at.astimezone(UTC).isoformat()},
        "fingerprint": event.fingerprint(),
    }
