"""Rate limits and quotas as plain arithmetic. The adapters keep the state; the rules stand here once.

Rate limits are GCRA (ITU-T I.371, the virtual scheduling form): a limit of N rows per window lets N rows through at
once and gives them back evenly over the window. The state of one limit is one number, the *theoretical arrival time*
(TAT): the instant at which the limit would be whole again. Costs are rows. Several limits are decided together: all
of them pay, or none.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from backend.domain.plans import QuotaMode

WINDOW_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """``per_window`` rows each ``window_s`` seconds for one subject."""

    scope: Literal["key", "tenant", "model"]
    subject: str
    per_window: int
    window_s: int = WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """What is left of one rate limit: ``remaining`` rows, whole again in ``reset_s`` seconds (rounded up)."""

    rule: RateRule
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDecision:
    """The outcome for all limits together; ``tats`` are to be stored only when ``allowed``."""

    allowed: bool
    tats: tuple[float, ...]
    states: tuple[RateState, ...]
    retry_after_s: float


def decide_rates(
    rules: tuple[RateRule, ...], stored_tats: tuple[float, ...], cost: int, now_s: float
) -> RateDecision:
    """Decide a request of ``cost`` rows against every rule at once.

    Args:
        rules: the limits.
        stored_tats: the stored theoretical arrival time of each, in seconds since the epoch; 0 for a fresh one.
        cost: rows asked for, at least 1.
        now_s: seconds since the epoch.
    """
    new_tats, retry_after_s = [], 0.0
    for rule, stored in zip(rules, stored_tats, strict=True):
        tat = max(stored, now_s) + cost * rule.window_s / rule.per_window
        retry_after_s = max(retry_after_s, tat - rule.window_s - now_s)
        new_tats.append(tat)
    # The sum of many small steps may overshoot the window by rounding; a microsecond is no row of any limit.
    allowed = retry_after_s <= 1e-6  # noqa: PLR2004
    tats = tuple(new_tats) if allowed else stored_tats
    return RateDecision(
        allowed=allowed,
        tats=tats,
        states=tuple(rate_state(rule, tat, now_s) for rule, tat in zip(rules, tats, strict=True)),
        retry_after_s=0.0 if allowed else retry_after_s,
    )


def rate_state(rule: RateRule, tat: float, now_s: float) -> RateState:
    """Return what is left of a limit whose theoretical arrival time is ``tat``."""
    owed_s = max(0.0, tat - now_s)
    remaining = math.floor((rule.window_s - owed_s) * rule.per_window / rule.window_s + 1e-6)
    return RateState(rule=rule, remaining=max(0, remaining), reset_s=math.ceil(owed_s - 1e-9))


def exceeds_burst(rules: tuple[RateRule, ...], cost: int) -> bool:
    """Whether a request is larger than a limit's whole window, so that no waiting would let it pass."""
    return any(cost > rule.per_window for rule in rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRule:
    """A monthly cap in rows for one subject; ``limit`` ``None`` counts without a cap."""

    scope: Literal["tenant", "key"]
    subject: str
    limit: int | None
    mode: QuotaMode = QuotaMode.HARD


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaState:
    """One quota: ``used`` rows are settled, ``reserved`` rows are leased to requests still running."""

    rule: QuotaRule
    used: int
    reserved: int
    resets_at_s: int

    @property
    def remaining(self) -> int | None:
        """Rows that may still be leased; ``None`` without a cap."""
        if self.rule.limit is None:
            return None
        return max(0, self.rule.limit - self.used - self.reserved)

    def admits(self, cost: int) -> bool:
        """Whether ``cost`` more rows may be leased. A soft quota always says yes: the excess is overage."""
        limit = self.rule.limit
        if limit is None or self.rule.mode is QuotaMode.SOFT:
            return True
        return self.used + self.reserved + cost <= limit


def period_of(instant_s: float) -> str:
    """Return the calendar month (UTC) of an instant, as ``YYYY-MM``."""
    at = datetime.fromtimestamp(instant_s, UTC)
    return f"{at.year:04d}-{at.month:02d}"


def period_end_s(period: str) -> int:
    """Return the first second after a period, in seconds since the epoch."""
    year, month = int(period[:4]), int(period[5:7])
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(following.timestamp())


def period_start(period: str) -> datetime:
    """Return the first instant of a period."""
    return datetime(int(period[:4]), int(period[5:7]), 1, tzinfo=UTC)
