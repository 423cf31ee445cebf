"""Rate limits and quotas as plain arithmetic. The adapters keep the state; the rules stand here once.

Rate limits are GCRA in its continuous-state leaky bucket form (ITU-T I.371 proves it equal to virtual
scheduling): a limit of N rows per window lets N rows through at once and drains them evenly over the window. The
state of one limit is how many rows are owed, and since when. A theoretical arrival time would be one number instead
of two, but it adds steps of ``window / N`` to the seconds since 1970, of which a double holds a quarter of a
microsecond: a limit of 600,000 rows a minute let 616 too many pass. Rows are whole numbers, so their sums are
exact. Costs are rows. Several limits are decided together: all of them pay, or none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Literal, NamedTuple

from backend.domain.plans import QuotaMode
from backend.domain.records import record

WINDOW_S = 60
DAY_S = 86_400

ROW_TOLERANCE = 1e-6
"""Draining rounds: a millionth of a row is no row. The scripts of the Redis adapter hold the same number.

What callers are told is worked out with less of it than what is decided, so that it holds to the last bit: what
remains can be spent, who waits as told passes, and what has reset is whole.
"""


class Enforcement(StrEnum):
    """What becomes of a request that its limits would refuse.

    In shadow it passes and is reported. It spends nothing of its rate limits, as a refused one would not: so what is
    reported is what enforcement would have refused, and no level ever passes its limit. It is served and booked, so
    its rows are use, and quotas count them beyond their caps.
    """

    ENFORCE = "enforce"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRule:
    """``per_window`` rows each ``window_s`` seconds for one subject."""

    scope: Literal["key", "tenant", "model"]
    subject: str
    per_window: int
    window_s: int = WINDOW_S


class RateLevel(NamedTuple):
    """What one limit is owed: ``rows`` at ``at_s`` (seconds since the epoch), draining ever since."""

    rows: float
    at_s: float


NOTHING_OWED = RateLevel(0.0, 0.0)


@record(frozen=True, slots=True)
class RateState:
    """What is left of one rate limit: ``remaining`` rows, whole again in ``reset_s`` seconds (rounded up)."""

    rule: RateRule
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateDecision:
    """The outcome for all limits together; ``levels`` are to be stored only when ``allowed``."""

    allowed: bool
    levels: tuple[RateLevel, ...]
    states: tuple[RateState, ...]
    retry_after_s: float


def decide_rates(rules: tuple[RateRule, ...], stored: tuple[RateLevel, ...], cost: int, now_s: float) -> RateDecision:
    """Decide a request of ``cost`` rows against every rule at once.

    A request larger than a limit's whole window never passes: its ``retry_after_s`` is that window's length.

    Args:
        rules: the limits.
        stored: the stored level of each; ``NOTHING_OWED`` for a fresh one.
        cost: rows asked for.
        now_s: seconds since the epoch.
    """
    levels, states, wait_s = [], [], 0.0
    for rule, level in zip(rules, stored, strict=True):
        owed = owed_rows(rule, level, now_s) + cost
        if owed - rule.per_window > ROW_TOLERANCE:
            wait_s = max(wait_s, _wait_s(rule, owed, cost))
        # A clock that has stepped back must not let the same seconds drain twice.
        levels.append(RateLevel(owed, max(level.at_s, now_s)))
        states.append(_state(rule, owed))
    if wait_s:
        unspent = rate_states(rules, stored, now_s)
        return RateDecision(allowed=False, levels=stored, states=unspent, retry_after_s=wait_s)
    return RateDecision(allowed=True, levels=tuple(levels), states=tuple(states), retry_after_s=0.0)


def rate_states(rules: tuple[RateRule, ...], levels: tuple[RateLevel, ...], now_s: float) -> tuple[RateState, ...]:
    """Return what is left of each limit, when nothing more is spent."""
    return tuple([_state(rule, owed_rows(rule, level, now_s)) for rule, level in zip(rules, levels, strict=True)])


def owing_states(rules: tuple[RateRule, ...], owed: Sequence[float]) -> tuple[RateState, ...]:
    """Return what is left of each limit when so many rows are owed to it now."""
    return tuple([_state(rule, rows) for rule, rows in zip(rules, owed, strict=True)])


def owed_rows(rule: RateRule, level: RateLevel, now_s: float) -> float:
    """Return the rows still owed to a limit; a clock that has stepped back drains nothing."""
    rows, at_s = level
    if now_s > at_s:
        rows -= (now_s - at_s) * rule.per_window / rule.window_s
    return max(0.0, rows)


def _wait_s(rule: RateRule, owed: float, cost: int) -> float:
    if cost > rule.per_window:
        return rule.window_s
    return (owed - rule.per_window - ROW_TOLERANCE / 2) * rule.window_s / rule.per_window


def _state(rule: RateRule, owed: float) -> RateState:
    rows = rule.per_window
    left = rows - owed + ROW_TOLERANCE / 2
    # A limit of nothing is as whole as it will ever be.
    due_s = (owed - ROW_TOLERANCE / 4) * (rule.window_s / rows) if rows else 0.0
    return RateState(rule, int(left) if left > 0 else 0, math.ceil(due_s) if due_s > 0 else 0)


def whole_seconds(wait_s: float) -> int:
    """Return a wait as ``Retry-After`` tells it: rounded up, and never zero."""
    return max(1, math.ceil(wait_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRule:
    """A monthly cap in rows for one subject; ``limit`` ``None`` counts without a cap."""

    scope: Literal["tenant", "key"]
    subject: str
    limit: int | None
    mode: QuotaMode = QuotaMode.HARD

    @property
    def must_hold(self) -> bool:
        """Whether anything is ever refused for its sake: there is a cap, and it is a hard one."""
        return self.limit is not None and self.mode is QuotaMode.HARD


@record(frozen=True, slots=True)
class QuotaState:
    """One quota: ``used`` rows are settled, ``reserved`` rows are leased to requests still running."""

    rule: QuotaRule
    used: int
    reserved: int
    resets_at_s: int

    @property
    def remaining(self) -> int | None:
        """Rows that may still be leased; ``None`` without a cap."""
        limit = self.rule.limit
        if limit is None:
            return None
        return max(0, limit - self.used - self.reserved)

    def with_reserved(self, cost: int) -> "QuotaState":
        """Return the state after ``cost`` more rows have been leased."""
        return QuotaState(rule=self.rule, used=self.used, reserved=self.reserved + cost, resets_at_s=self.resets_at_s)

    def admits(self, cost: int) -> bool:
        """Whether ``cost`` more rows may be leased. A soft quota always says yes: the excess is overage."""
        limit = self.rule.limit
        if limit is None or not self.rule.must_hold:
            return True
        return self.used + self.reserved + cost <= limit


def period_of(instant_s: float) -> str:
    """Return the calendar month (UTC) of an instant, as ``YYYY-MM``."""
    return _month_of_day(math.floor(instant_s / DAY_S))


@lru_cache(maxsize=64)
def _month_of_day(days_since_epoch: int) -> str:
    # Asked by every request with the same answer all day; the calendar costs a microsecond, this a tenth.
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days_since_epoch)
    return f"{at.year:04d}-{at.month:02d}"


def period_start_s(period: str) -> int:
    """Return the first second of a period, in seconds since the epoch."""
    return _period_bounds_s(period)[0]


def period_end_s(period: str) -> int:
    """Return the first second after a period, in seconds since the epoch."""
    return _period_bounds_s(period)[1]


@lru_cache(maxsize=64)
def _period_bounds_s(period: str) -> tuple[int, int]:
    start = period_start(period)
    following = datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()), int(following.timestamp())


def period_start(period: str) -> datetime:
    """Return the first instant of a period."""
    return datetime(int(period[:4]), int(period[5:7]), 1, tzinfo=UTC)
