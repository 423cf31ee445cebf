"""Statements: what a tenant owes for a period, line by line.

Flat fees are owed for the seconds that a plan version was in force. Usage is priced for each plan version by itself,
its tiers applied once to the version's total. An adjustment costs what the corrected total costs more, or less, than
the total did before it: so whoever is corrected pays what would have been paid in the first place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction

from backend.domain.adjustments import AdjustedUsage
from backend.domain.limits import period_end_s, period_start_s
from backend.domain.plans import Plan, QuotaMode
from backend.domain.pricing import round_micros, share_of_fee, usage_price
from backend.domain.usage import PlanUsage


class LineKind(StrEnum):
    """What a line is for."""

    FLAT_FEE = "flat_fee"
    USAGE = "usage"
    OVERAGE = "overage"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One priced line. ``units`` are billable ones; of a flat fee they are the seconds it is owed for.

    ``corrects_period`` is set on an adjustment.
    """

    kind: LineKind
    plan_id: str
    plan: str
    plan_version: int
    units: int
    included_units: int
    currency: str
    amount_micros: int
    corrects_period: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpan:
    """A tenant on a plan from ``started_at`` on and before ``ended_at``; ``None`` is until further notice."""

    plan_id: str
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Billables:
    """All that a period's statement is made of.

    ``corrected`` holds the billable units, adjustments left out, of each period and plan that ``adjusted`` corrects.
    """

    period: str
    spans: tuple[PlanSpan, ...]
    usage: tuple[PlanUsage, ...]
    adjusted: tuple[AdjustedUsage, ...]
    corrected: Mapping[tuple[str, str], int]
    plans: Mapping[str, Plan]


def price(owed: Billables) -> tuple[StatementLine, ...]:
    """Return the statement's lines: fees, then usage, then adjustments. Each is rounded once."""
    return (*_fees(owed), *_usage(owed), *_adjustments(owed))


def total_micros(lines: Sequence[StatementLine]) -> int:
    """Return what the lines come to."""
    return sum(line.amount_micros for line in lines)


def billable_price(plan: Plan, units: int) -> tuple[Fraction, Fraction]:
    """Return what billable units cost under a plan: within the quota, and beyond it where overage has a price."""
    units = max(0, units)
    within = units
    if plan.pricing.overage is not None and plan.monthly_quota is not None and plan.quota_mode is QuotaMode.SOFT:
        within = min(units, plan.monthly_quota)
        return usage_price(plan.pricing, within), plan.pricing.overage.of(units - within)
    return usage_price(plan.pricing, within), Fraction(0)


def _fees(owed: Billables) -> list[StatementLine]:
    start_s, end_s = period_start_s(owed.period), period_end_s(owed.period)
    start, end = datetime.fromtimestamp(start_s, UTC), datetime.fromtimestamp(end_s, UTC)
    active_us: dict[str, int] = {}
    for span in owed.spans:
        first, last = max(start, span.started_at), min(end, span.ended_at or end)
        if first < last:
            active_us[span.plan_id] = active_us.get(span.plan_id, 0) + round((last - first).total_seconds() * 1e6)
    lines = []
    for plan_id in sorted(active_us):
        plan = owed.plans[plan_id]
        # Two spans of a second's parts make whole seconds again.
        seconds = round(active_us[plan_id] / 1e6)
        amount = share_of_fee(plan.pricing.flat_fee_micros, active_s=seconds, period_s=end_s - start_s)
        if plan.pricing.flat_fee_micros and seconds:
            lines.append(_line(LineKind.FLAT_FEE, plan, seconds, amount))
    return lines


def _usage(owed: Billables) -> list[StatementLine]:
    lines = []
    for used in owed.usage:
        plan = owed.plans[used.plan_id]
        within, beyond = billable_price(plan, used.billable_units)
        over = used.billable_units - (plan.monthly_quota or 0) if beyond else 0
        lines.append(_line(LineKind.USAGE, plan, used.billable_units - over, within))
        if over:
            lines.append(_line(LineKind.OVERAGE, plan, over, beyond))
    return lines


def _adjustments(owed: Billables) -> list[StatementLine]:
    lines = []
    for adjusted in owed.adjusted:
        plan = owed.plans[adjusted.plan_id]
        before = owed.corrected.get((adjusted.corrects_period, adjusted.plan_id), 0) + adjusted.earlier
        amount = sum(billable_price(plan, before + adjusted.units), -sum(billable_price(plan, before), Fraction(0)))
        lines.append(_line(LineKind.ADJUSTMENT, plan, adjusted.units, amount, adjusted.corrects_period))
    return lines


def _line(
    kind: LineKind, plan: Plan, units: int, amount: Fraction, corrects_period: str | None = None
) -> StatementLine:
    return StatementLine(
        kind=kind,
        plan_id=plan.id,
        plan=plan.name,
        plan_version=plan.version,
        units=units,
        included_units=plan.pricing.included_units if kind is LineKind.USAGE else 0,
        currency=plan.pricing.currency,
        amount_micros=round_micros(amount),
        corrects_period=corrects_period,
    )
