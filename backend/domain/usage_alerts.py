"""Telling a tenant how much of its quota is used up: at 50, 80 and 100 percent, once each in a period."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from backend.domain.api_keys import Environment
from backend.domain.plans import QuotaMode

THRESHOLDS = (50, 80, 100)
"""In percent of the quota."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """How much of one quota is used: ``units`` of ``limit`` rows in a period, for a tenant or one of its keys."""

    period: str
    environment: Environment
    scope: Literal["tenant", "key"]
    subject: str
    units: int
    limit: int
    mode: QuotaMode

    def reached(self) -> tuple[int, ...]:
        """Return every threshold that is reached, in percent. A quota of nothing has none."""
        if self.limit <= 0:
            return ()
        return tuple(threshold for threshold in THRESHOLDS if self.units * 100 >= threshold * self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAlert:
    """A threshold that was reached, and how things stood when that was seen."""

    use: QuotaUse
    threshold: int
    at: datetime

    def content(self) -> dict[str, Any]:
        """Return the ``data`` of the webhook."""
        use = self.use
        return {
            "period": use.period,
            "environment": use.environment.value,
            "scope": use.scope,
            "key_id": use.subject if use.scope == "key" else None,
            "threshold_percent": self.threshold,
            "used": use.units,
            "limit": use.limit,
            "mode": use.mode.value,
        }
