"""What usage costs: pure functions of totals, exact until the one rounding at the end of a statement's line.

All money is in micros, millionths of the currency's unit. A rate is so many micros for so many units, so that a price
below one micro a unit can be said without a fraction. In between, amounts are exact fractions; :func:`round_micros`
is called once for each line.

Flat fees are shared out by the second when a subscription begins or ends within the month. Usage, its included units
and its tiers are not: each plan version prices what was used under it, from its own first tier.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from backend.domain.errors import FieldError

MOST_MICROS = 10**15
MOST_UNITS = 10**15
MOST_TIERS = 50


class PricingModel(StrEnum):
    """How units beyond the included ones become an amount."""

    FLAT = "flat"
    """They cost nothing: the flat fee is all."""
    PER_UNIT = "per_unit"
    """Each costs the same."""
    GRADUATED = "graduated"
    """Each costs what the tier it falls into says."""
    VOLUME = "volume"
    """All cost what the tier that the total falls into says: at a tier's edge the amount may fall."""
    PACKAGE = "package"
    """They are sold by the package; one that has been begun is paid for whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """``micros`` for each ``per_units`` units."""

    micros: int
    per_units: int = 1

    def of(self, units: int) -> Fraction:
        """Return what so many units cost, exactly."""
        return Fraction(self.micros * units, self.per_units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Units up to and with ``up_to`` (``None``: all further ones). ``flat_micros`` is owed once it is reached."""

    up_to: int | None
    rate: Rate
    flat_micros: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """``units`` together for ``micros``."""

    units: int
    micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """A plan's prices. Of ``rate``, ``tiers`` and ``package`` the one that the model reads is set.

    ``overage`` prices billable units beyond a soft quota, apart from the model; without it they cost what others do.
    """

    currency: str = "USD"
    flat_fee_micros: int = 0
    included_units: int = 0
    model: PricingModel = PricingModel.FLAT
    rate: Rate | None = None
    tiers: tuple[Tier, ...] = ()
    package: Package | None = None
    overage: Rate | None = None


FREE = Pricing()


def problems_of(pricing: Pricing) -> tuple[FieldError, ...]:
    """Return what keeps a pricing from meaning anything, with pointers into it."""
    found = []
    for name, model in (("rate", PricingModel.PER_UNIT), ("package", PricingModel.PACKAGE)):
        if (pricing.model is model) is (getattr(pricing, name) is None):
            is_read = pricing.model is model
            detail = "is needed by this model" if is_read else "is not read by this model"
            found.append(FieldError(f"/pricing/{name}", detail))
    if pricing.model not in {PricingModel.GRADUATED, PricingModel.VOLUME}:
        if pricing.tiers:
            found.append(FieldError("/pricing/tiers", "is not read by this model"))
        return tuple(found)
    edges = [tier.up_to for tier in pricing.tiers]
    if not edges or edges[-1] is not None:
        found.append(FieldError("/pricing/tiers", "must end with a tier whose up_to is null"))
    lower = 0
    for index, edge in enumerate(edges[:-1]):
        if edge is None or edge <= lower:
            found.append(FieldError(f"/pricing/tiers/{index}/up_to", "must lie above the tier before"))
        lower = edge or lower
    return tuple(found)


def usage_price(pricing: Pricing, units: int) -> Fraction:
    """Return what billable units cost under a pricing, exactly, without the flat fee and the overage."""
    chargeable = max(0, units - pricing.included_units)
    match pricing.model:
        case PricingModel.FLAT:
            return Fraction(0)
        case PricingModel.PER_UNIT:
            return Fraction(0) if pricing.rate is None else pricing.rate.of(chargeable)
        case PricingModel.GRADUATED:
            return graduated(pricing.tiers, 0, chargeable)
        case PricingModel.VOLUME:
            return volume(pricing.tiers, chargeable)
        case PricingModel.PACKAGE:
            return Fraction(0) if pricing.package is None else packaged(pricing.package, chargeable)


def graduated(tiers: tuple[Tier, ...], start: int, end: int) -> Fraction:
    """Return what the units after the first ``start`` and up to ``end`` cost.

    However a total is split, the parts cost together what the whole costs.
    """
    total, lower = Fraction(0), 0
    for tier in tiers:
        upper = end if tier.up_to is None else min(end, tier.up_to)
        first = max(start, lower)
        if first < upper:
            total += tier.rate.of(upper - first)
            if first == lower:
                total += tier.flat_micros
        if tier.up_to is None or tier.up_to >= end:
            break
        lower = tier.up_to
    return total


def volume(tiers: tuple[Tier, ...], units: int) -> Fraction:
    """Return what units cost when the total's tier prices all of them."""
    if not units:
        return Fraction(0)
    tier = next((each for each in tiers if each.up_to is None or units <= each.up_to), None)
    return Fraction(0) if tier is None else tier.rate.of(units) + tier.flat_micros


def packaged(package: Package, units: int) -> Fraction:
    """Return what units cost by the package, the last one whole."""
    return Fraction(-(-units // package.units) * package.micros)


def round_micros(amount: Fraction) -> int:
    """Round to whole micros, halves away from zero, so that a credit is as large as the charge it takes back."""
    doubled = abs(amount) * 2
    whole = (doubled.numerator // doubled.denominator + 1) // 2
    return whole if amount >= 0 else -whole


def share_of_fee(fee_micros: int, *, active_s: int, period_s: int) -> Fraction:
    """Return the part of a monthly fee that a subscription owes which held for ``active_s`` of the month's seconds."""
    return Fraction(fee_micros * min(active_s, period_s), period_s)
