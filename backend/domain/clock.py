"""Time as the services see it: one object that tests replace."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def now(self) -> datetime:
        """The same instant as an aware UTC datetime."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def now(self) -> datetime:
        """The same instant as an aware UTC datetime."""
        return datetime.now(UTC)
