"""Compares quota counters with the ledger, and repairs what requests under way cannot explain.

A counter falls behind when a settlement is lost: Redis was flushed or away, a server was killed, a commit succeeded
that its caller was told had failed. It runs ahead when a settlement was for an event that nothing kept. Counters that
are gone need no repair: admission begins them with what the ledger holds. Billing reads the ledger alone.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from backend.adapters.redis import keys
from backend.adapters.redis.line import OUTAGES, Line, Script
from backend.adapters.usage_spill import UsageSpill
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.domain.limits import period_of
from backend.services.ports import Metrics, QuotaHistory

log = logging.getLogger(__name__)

SCANNED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Counter:
    key: str
    tenant_id: TenantId
    credential_id: str | None
    environment: Environment


class RedisQuotaReconciliation:
    """Walks this month's counters. Any number of processes may: a difference is repaired once.

    Args:
        line: see ``open_line``. It stays the caller's, who closes it.
        history: the ledger's sums.
        spill: what is counted and waits there is not missing.
        clock: says which month it is.
        metrics: where repaired units are counted.
    """

    def __init__(self, line: Line, history: QuotaHistory, spill: UsageSpill, clock: Clock, *, metrics: Metrics) -> None:
        self._line = line
        self._history = history
        self._spill = spill
        self._clock = clock
        self._scan = Script("scan_counters")
        self._read = Script("read_counter")
        self._reconcile = Script("reconcile")
        self._repaired = {
            direction: metrics.counter(
                "forecourt_quota_repaired_units_total",
                "Units by which quota counters differed from the ledger, and were repaired.",
                direction=direction,
            )
            for direction in ("up", "down")
        }

    async def run(self) -> int:
        """Compare every counter of this month; return how many were repaired.

        Raises:
            EnforcementUnavailable: Redis does not answer.
            StoreUnavailable: the ledger cannot be read.
        """
        period = period_of(self._clock.now_s())
        repaired = 0
        try:
            async for counter in self._counters(period):
                repaired += await self._repair(counter, period)
        except OUTAGES as error:
            raise EnforcementUnavailable(retry_after_s=1) from error
        return repaired

    async def _counters(self, period: str) -> AsyncIterator[_Counter]:
        for scan_on in await self._line.primaries():
            cursor: bytes | int = 0
            while cursor != b"0":
                args = [cursor, keys.quota_counters(period), SCANNED_AT_ONCE]
                reply = cast("list[bytes]", await scan_on(self._scan, args))
                for key in reply[1:]:
                    counter = _counter_of(key.decode())
                    if counter is not None:
                        yield counter
                cursor = reply[0]

    async def _repair(self, counter: _Counter, period: str) -> bool:
        # The order matters: what had been counted by now was in the ledger or in the spill by now.
        counted = await self._line.run(self._read, [counter.key], [])
        is_spilled = await self._spill.waiting() > 0
        booked = await self._history.units_in_period(
            counter.tenant_id, counter.environment, period, counter.credential_id
        )
        if counted[0] is None:
            return False
        too_many = 0 if is_spilled else max(0, int(counted[0]) - booked)
        reply = await self._line.run(
            self._reconcile,
            [counter.key],
            [booked, too_many, int(counted[1] or 0)],
        )
        change = int(reply[0] or 0)
        if change == 0:
            return False
        self._repaired["up" if change > 0 else "down"].add(abs(change))
        log.warning("quota counter repaired", extra={"tenant_id": counter.tenant_id, "units": change})
        return True


def _counter_of(key: str) -> _Counter | None:
    """Read a counter's name, as ``keys.quota_counter`` spells it."""
    tenant, _, rest = key.removeprefix("fc:{").partition("}:quota:")
    parts = rest.split(":")
    if len(parts) != 4:  # noqa: PLR2004
        return None
    scope, subject, environment, _ = parts
    return _Counter(key, TenantId(tenant), subject if scope == "key" else None, Environment(environment))
