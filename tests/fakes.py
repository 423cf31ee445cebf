"""Stand-ins that tests of any floor may use."""

from datetime import UTC, datetime


class FakeClock:
    """A clock that a test sets. It begins in the middle of a month, far from any edge."""

    def __init__(self, at: datetime = datetime(2026, 7, 15, 12, tzinfo=UTC)) -> None:
        self._now_s = at.timestamp()

    def now_s(self) -> float:
        return self._now_s

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._now_s, UTC)

    def set(self, at: datetime) -> None:
        self._now_s = at.timestamp()

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
