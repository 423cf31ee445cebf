"""The ledger's months on PostgreSQL: made ahead, so that events always find their own.

The functions that do it came with migration 0013: the application's role may call them, and may not change tables. On
SQLite the ledger is one table, and there is nothing to make.
"""

from datetime import UTC, date, datetime

from sqlalchemy import text

from backend.adapters.db.unit_of_work import Database
from backend.domain.clock import Clock

AHEAD = 3
"""Months that are there before they begin, so that a worker may be away for long."""
_MAKE = text("SELECT public.forecourt_make_usage_month(:month)")


class SqlUsageMonths:
    """Makes months."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def make(self) -> int:
        """Make this month and those ahead; return how many were not there.

        What came in before a month was made is moved into it. A month that readers hold up is made the next time.

        Raises:
            StoreUnavailable: the store does not answer, or readers held a month up.
        """
        if self._database.engine.dialect.name == "sqlite":
            return 0
        made = 0
        for month in _months(self._clock.now()):
            # One at a time: each waits for readers, and holds up others, as shortly as possible.
            async with self._database.connection() as connection, connection.begin():
                made += bool(await connection.scalar(_MAKE, {"month": month}))
        return made


def _months(now: datetime) -> list[date]:
    first = now.astimezone(UTC).date().replace(day=1)
    ahead = [first.year * 12 + first.month - 1 + each for each in range(AHEAD + 1)]
    return [date(each // 12, each % 12 + 1, 1) for each in ahead]
