"""Where usage waits while the database cannot take it, and how it gets there in the end. Knows no technology.

An event that was answered is in one of two places before its 200: in the ledger, or in the spill. It may be in both,
because a commit whose answer was lost may have happened: the ledger takes an id once, so draining it changes nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Protocol

from backend.domain.errors import MeteringUnavailable
from backend.domain.usage import UsageEvent
from backend.services.ports import Metrics

log = logging.getLogger(__name__)

DRAIN_BATCH = 500


class Stored(Enum):
    """What became of an event that was to be written."""

    DURABLE = auto()
    CONFLICT = auto()
    """The ledger holds its id with another content (LEDGER.md R4)."""
    UNFIT = auto()
    """No database takes such a value; the others of its batch are written."""


class EventStore(Protocol):
    """Writes events to the ledger."""

    async def write(self, events: Sequence[UsageEvent]) -> list[Stored]:
        """Write events in one commit; say of each what became of it. Those that are there already are durable.

        Raises:
            MeteringUnavailable: nothing can be said of any of them.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SpilledEvent:
    """An entry of the spill; ``event`` is ``None`` when it cannot be read."""

    entry_id: str
    event: UsageEvent | None


class UsageSpill(Protocol):
    """A durable queue that every process shares. It refuses when it is full, and never drops what it has taken."""

    async def put(self, events: Sequence[UsageEvent]) -> int:
        """Take events in order; return how many there was room for.

        Raises:
            MeteringUnavailable: no answer. Some may have been taken nevertheless.
        """
        ...

    async def waiting(self) -> int:
        """Return how many entries wait.

        Raises:
            MeteringUnavailable: no answer.
        """
        ...

    async def oldest(self, limit: int) -> list[SpilledEvent]:
        """Return the oldest entries; they stay until they are removed.

        Raises:
            MeteringUnavailable: no answer.
        """
        ...

    async def remove(self, entry_ids: Sequence[str]) -> None:
        """Remove entries that are in the ledger. Doing it twice changes nothing.

        Raises:
            MeteringUnavailable: no answer.
        """
        ...

    async def set_aside(self, entry_ids: Sequence[str]) -> None:
        """Move entries that the ledger will never take to where an operator finds them.

        Raises:
            MeteringUnavailable: no answer.
        """
        ...


class SpillDrain:
    """Brings what was spilled into the ledger. Any number may run: each writes the same ids, the ledger takes one.

    An entry is removed only after its event is committed; a drain that dies leaves everything where it was.
    """

    def __init__(self, spill: UsageSpill, store: EventStore, *, metrics: Metrics) -> None:
        self._spill = spill
        self._store = store
        self._drained = metrics.counter("forecourt_spill_drained_events_total", "Spilled events now in the ledger.")
        self._aside = metrics.counter(
            "forecourt_spill_set_aside_total", "Spilled entries that the ledger will never take, set aside."
        )
        self._waiting = metrics.gauge("forecourt_spill_waiting_events", "Spilled events that are not drained yet.")

    async def run(self) -> int:
        """Drain until nothing is left; return how many events are in the ledger now.

        Raises:
            MeteringUnavailable: one of the two stores does not answer. Nothing is lost, what was drained stays so.
        """
        drained = 0
        while entries := await self._spill.oldest(DRAIN_BATCH):
            drained += await self._drain(entries)
            self._waiting.set(await self._spill.waiting())
        self._waiting.set(0)
        return drained

    async def _drain(self, entries: list[SpilledEvent]) -> int:
        readable = [(entry.entry_id, entry.event) for entry in entries if entry.event is not None]
        outcomes = await self._store.write([event for _, event in readable])
        durable = [
            entry_id for (entry_id, _), outcome in zip(readable, outcomes, strict=True) if outcome is Stored.DURABLE
        ]
        await self._spill.remove(durable)
        self._drained.add(len(durable))
        kept = set(durable)
        aside = [entry.entry_id for entry in entries if entry.entry_id not in kept]
        if aside:
            await self._spill.set_aside(aside)
            self._aside.add(len(aside))
            log.error(
                "spilled usage set aside: it cannot be booked", extra={"entries": aside[:20], "count": len(aside)}
            )
        return len(durable)


class NothingWaits:
    """Implements ``WaitingUsage`` where there is no second store: what was answered is in the ledger."""

    async def oldest_at(self) -> datetime | None:
        """Return ``None``."""
        return None


class NoSpill:
    """Where there is no second store: nothing is taken, so nothing is sold."""

    async def put(self, events: Sequence[UsageEvent]) -> int:  # noqa: ARG002
        """Refuse.

        Raises:
            MeteringUnavailable: always.
        """
        raise MeteringUnavailable(retry_after_s=1)

    async def waiting(self) -> int:
        """Refuse.

        Raises:
            MeteringUnavailable: always.
        """
        raise MeteringUnavailable(retry_after_s=1)
