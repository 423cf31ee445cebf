"""Telling an outside biller what tenants used, so that it converges (LEDGER.md R17).

What is pushed is a reading: the absolute total of a tenant's billable units in a period, never a difference. A reading
carries a number that grows, an instant that grows with it, and an identifier made of both, of the tenant, of the period
and of the total. So the same reading again changes nothing, a late one is older than what is there, and the biller's
meter has to take the **last** value of a period (Stripe: ``last`` aggregation; OpenMeter: ``LATEST``).

A reading is written down before it is sent. Whoever dies in between leaves it to be sent again, word for word.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from backend.domain.ids import TenantId
from backend.domain.limits import period_end_s, period_start

CUSTOMER_ID = re.compile(r"[!-~]{1,200}")
LEASE = timedelta(seconds=60)
"""How long a reading belongs to whoever sends it; longer than any call takes."""
ROOM_FOR_LATE = timedelta(hours=1)
"""The end of a period that is kept for readings made after it: their instants lie in the period and still grow."""
FIRST_WAIT_S = 30
LONGEST_WAIT_S = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class BillerCustomer:
    """Under which id an outside biller knows a tenant."""

    tenant_id: TenantId
    customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodTotal:
    """What a tenant's period comes to now, in billable units, and whether that can still change."""

    billable_units: int
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a biller is told: the tenant's ``total`` in a period as of ``at``; the ``number``-th since it began."""

    tenant_id: TenantId
    customer_id: str
    period: str
    number: int
    total: int
    at: datetime
    is_final: bool

    @property
    def identifier(self) -> str:
        """The same for the same reading, and for no other; at most 100 characters, as Stripe has it."""
        return f"{self.tenant_id}-{self.period}-{self.number}-{self.total}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePush:
    """How far a biller was told of one tenant's period: the last reading, and whether the biller has taken it.

    ``attempts`` counts the tries of this reading; until ``next_attempt_at`` nobody begins another.
    """

    reading: Reading
    taken_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    last_failure: str | None

    def claimed(self, now: datetime) -> "UsagePush":
        """Return the push as it is while somebody sends its reading."""
        return replace(self, attempts=self.attempts + 1, next_attempt_at=now + LEASE)

    def taken(self, at: datetime) -> "UsagePush":
        """Return the push once the biller has the reading."""
        return replace(self, taken_at=at, next_attempt_at=None, last_failure=None)

    def failed(self, failure: str, at: datetime, *, retry_after_s: int | None) -> "UsagePush":
        """Return the push after the biller did not take the reading."""
        wait_s = min(FIRST_WAIT_S * 2 ** min(self.attempts - 1, 10), LONGEST_WAIT_S)
        wait_s = max(wait_s, min(retry_after_s or 0, LONGEST_WAIT_S))
        return replace(self, next_attempt_at=at + timedelta(seconds=wait_s), last_failure=failure)


def next_push(
    before: UsagePush | None, customer: BillerCustomer, period: str, total: PeriodTotal, now: datetime
) -> UsagePush | None:
    """Return what has to be sent now, if anything: a reading that says something new, or the last one once more.

    While somebody else sends, nothing; while the biller does not answer, nothing until the wait is over.
    """
    if before is not None and before.next_attempt_at is not None and now < before.next_attempt_at:
        return None
    last = before.reading if before else None
    told = (last.total, last.is_final, last.customer_id) if last else (0, False, customer.customer_id)
    if told == (total.billable_units, total.is_closed, customer.customer_id):
        outstanding = before if before is not None and before.taken_at is None else None
        return outstanding.claimed(now) if outstanding else None
    reading = Reading(
        tenant_id=customer.tenant_id,
        customer_id=customer.customer_id,
        period=period,
        number=last.number + 1 if last else 1,
        total=total.billable_units,
        at=_instant(last, period, now),
        is_final=total.is_closed,
    )
    fresh = UsagePush(reading=reading, taken_at=None, attempts=0, next_attempt_at=None, last_failure=None)
    return fresh.claimed(now)


def _instant(last: Reading | None, period: str, now: datetime) -> datetime:
    """Return a reading's instant, in whole seconds: within its period, and later than the last one's."""
    end = datetime.fromtimestamp(period_end_s(period), UTC)
    at = max(min(now, end - ROOM_FOR_LATE), period_start(period)).replace(microsecond=0)
    if last is not None:
        at = max(at, last.at + timedelta(seconds=1))
    return min(at, end - timedelta(seconds=1))


def periods_to_push(now: datetime, unfinished: frozenset[str]) -> tuple[str, ...]:
    """Return the periods to look at: this month, the one before, and whatever is not final."""
    this = f"{now.year:04d}-{now.month:02d}"
    before = now.replace(day=1) - timedelta(days=1)
    return tuple(sorted({this, f"{before.year:04d}-{before.month:02d}"} | unfinished))
