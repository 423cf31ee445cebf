"""Usage that waits for the database, in a Redis stream.

It is as durable as Redis is: with ``appendonly yes`` it survives a restart, with ``appendfsync always`` also the loss
of the machine's last second. A FLUSHALL while the database is down loses it, as it loses everything.

Entries are read from the oldest on, removed once they are in the ledger, and never claimed by anybody: a drain that
dies leaves them as they were, and two drains at once write the same ids, of which the ledger takes one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from backend.adapters.breaker import Breaker
from backend.adapters.redis import keys
from backend.adapters.redis.line import OUTAGES, Line, Reply, Script, Value
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.usage_spill import SpilledEvent
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable, MeteringUnavailable
from backend.domain.ids import TenantId
from backend.domain.usage import BillingReason, UsageEvent
from backend.services.ports import Metrics

READ_WITHIN_S = 2.0
"""Bound for the line of a drain's calls, for which no caller waits."""

_EVENT = b"event"


class RedisUsageSpill:
    """Implements ``UsageSpill``.

    Args:
        callers: the line on which batches are taken, for which callers wait. Both stay the caller's, who closes them.
        drains: the line on which they are read and removed.
        limit: most events that may wait; further ones are refused. An entry takes about half a kilobyte.
        metrics: where its breaker is counted.
    """

    def __init__(self, callers: Line, drains: Line, *, limit: int, metrics: Metrics) -> None:
        self._callers = ScriptRunner(callers, Breaker("spill", metrics))
        self._drains = drains
        self._limit = limit
        self._put = Script("spill")
        self._set_aside = Script("set_aside")
        self._count = Script("count_spilled")
        self._oldest = Script("oldest_spilled")
        self._remove = Script("remove_spilled")

    async def put(self, events: Sequence[UsageEvent]) -> int:
        """Take events in order; return how many there was room for."""
        try:
            reply = await self._callers.run(
                self._put, [keys.usage_spill()], [self._limit, *(_written(event) for event in events)]
            )
        except EnforcementUnavailable as error:
            raise MeteringUnavailable(retry_after_s=1) from error
        return int(reply[0] or 0)

    async def waiting(self) -> int:
        """Return how many entries wait."""
        (count,) = await self._drain(self._count, [])
        return int(count or 0)

    async def oldest(self, limit: int) -> list[SpilledEvent]:
        """Return the oldest entries; they stay until they are removed."""
        found = cast("list[tuple[bytes, list[bytes]]]", await self._drain(self._oldest, [limit]))
        return [SpilledEvent(entry_id=entry_id.decode(), event=read_event(fields)) for entry_id, fields in found]

    async def remove(self, entry_ids: Sequence[str]) -> None:
        """Remove entries that are in the ledger."""
        if entry_ids:
            await self._drain(self._remove, list(entry_ids))

    async def set_aside(self, entry_ids: Sequence[str]) -> None:
        """Move entries that the ledger will never take to where an operator finds them."""
        try:
            await self._drains.run(self._set_aside, [keys.usage_spill(), keys.usage_set_aside()], list(entry_ids))
        except OUTAGES as error:
            raise MeteringUnavailable(retry_after_s=1) from error

    async def _drain(self, script: Script, args: Sequence[Value]) -> Reply:
        try:
            return await self._drains.run(script, [keys.usage_spill()], args)
        except OUTAGES as error:
            raise MeteringUnavailable(retry_after_s=1) from error


def _written(event: UsageEvent) -> bytes:
    content = asdict(event)
    content["occurred_at"] = event.occurred_at.astimezone(UTC).isoformat()
    # The digest shows whether it is read back as it was written, by this version or another.
    return json.dumps({"event": content, "sha256": event.fingerprint().hex()}).encode()


def read_event(fields: list[bytes]) -> UsageEvent | None:
    """Return an entry's event as it was written, or ``None`` when it is not one."""
    try:
        entry: dict[str, Any] = json.loads(dict(zip(fields[::2], fields[1::2], strict=True)).get(_EVENT, b""))
        content = entry["event"]
        event = UsageEvent(
            **content
            | {
                "tenant_id": TenantId(content["tenant_id"]),
                "environment": Environment(content["environment"]),
                "reason": BillingReason(content["reason"]),
                "occurred_at": datetime.fromisoformat(content["occurred_at"]),
            }
        )
        is_whole = event.fingerprint().hex() == entry["sha256"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return event if is_whole else None
