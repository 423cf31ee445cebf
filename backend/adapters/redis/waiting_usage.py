"""How far the ledger is behind: what the oldest entry of the spill says."""

from datetime import UTC, datetime
from typing import cast

from backend.adapters.redis import keys
from backend.adapters.redis.line import Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.usage_spill import read_event
from backend.domain.errors import EnforcementUnavailable, MeteringUnavailable


class RedisWaitingUsage:
    """Implements ``WaitingUsage``.

    Args:
        runner: a way to Redis that finds out by itself when an outage is over.
    """

    def __init__(self, runner: ScriptRunner) -> None:
        self._redis = runner
        self._oldest = Script("oldest_spilled")

    async def oldest_at(self) -> datetime | None:
        """Return when the oldest event that waits was served; ``None`` when nothing waits."""
        try:
            reply = await self._redis.run(self._oldest, [keys.usage_spill()], [1], writes=False)
        except EnforcementUnavailable as error:
            raise MeteringUnavailable(retry_after_s=1) from error
        if not reply:
            return None
        [(entry_id, fields)] = cast("list[tuple[bytes, list[bytes]]]", reply)
        event = read_event(fields)
        if event is not None:
            return event.occurred_at
        # An entry that cannot be read: by Redis' clock it was taken right after it was served.
        milliseconds, _, _ = entry_id.partition(b"-")
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
