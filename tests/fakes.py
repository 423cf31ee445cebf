"""Stand-ins that tests of any floor may use."""

from collections.abc import Callable
from datetime import UTC, datetime

import anyio.lowlevel

from backend.domain.api_keys import Environment
from backend.domain.errors import StoreUnavailable
from backend.domain.ids import TenantId


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


class FakeHistory:
    """A ledger's sums: units that a test puts in, a count of questions, and an outage at will."""

    def __init__(self, on_question: Callable[[], object] | None = None) -> None:
        self.questions = 0
        self.is_down = False
        self.on_question = on_question
        self._units: dict[tuple[str, str, str, str | None], int] = {}

    def record(
        self, tenant_id: TenantId, units: int, *, environment: Environment, period: str, credential_id: str
    ) -> None:
        """Book units as the ledger would: for the tenant and for the credential."""
        for name in (None, credential_id):
            key = (tenant_id, environment, period, name)
            self._units[key] = self._units.get(key, 0) + units

    async def units_in_period(
        self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
    ) -> int:
        self.questions += 1
        # A real ledger lets others run meanwhile.
        await anyio.lowlevel.checkpoint()
        if self.on_question is not None:
            self.on_question()
        if self.is_down:
            raise StoreUnavailable(retry_after_s=1)
        return self._units.get((tenant_id, environment, period, credential_id), 0)
