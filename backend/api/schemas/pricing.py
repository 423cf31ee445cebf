"""A plan's prices on the wire. Money is in micros: millionths of the currency's unit."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.api.schemas.common import In, Out
from backend.domain.pricing import MOST_MICROS, MOST_TIERS, MOST_UNITS, Package, Pricing, PricingModel, Rate, Tier

Micros = Annotated[int, Field(ge=0, le=MOST_MICROS)]
Units = Annotated[int, Field(ge=1, le=MOST_UNITS)]


class RateIn(In):
    """So many micros for so many units."""

    micros: Micros = Field(examples=[200])
    per_units: Units = 1

    def to_rate(self) -> Rate:
        """Return the same in the domain's words."""
        return Rate(micros=self.micros, per_units=self.per_units)


class TierIn(In):
    """Units up to and with `up_to`, counted after the included ones; the last tier has no end."""

    up_to: Units | None = None
    rate: RateIn
    flat_micros: Micros = Field(0, description="Owed once the tier is reached.")

    def to_tier(self) -> Tier:
        """Return the same in the domain's words."""
        return Tier(up_to=self.up_to, rate=self.rate.to_rate(), flat_micros=self.flat_micros)


class PackageIn(In):
    """Units that are sold together."""

    units: Units
    micros: Micros


class PricingIn(In):
    """What a plan costs. Of `rate`, `tiers` and `package` the one that the model reads has to be there."""

    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"
    flat_fee_micros: Micros = Field(0, description="A month's fee; shared out by the second within a month.")
    included_units: int = Field(0, ge=0, le=MOST_UNITS)
    model: Annotated[PricingModel, Field(strict=False)] = Field(
        PricingModel.FLAT,
        description="`flat`: the fee is all. `per_unit`, `graduated`, `volume`, `package`: what further units cost.",
    )
    rate: RateIn | None = None
    tiers: list[TierIn] = Field(default_factory=list, max_length=MOST_TIERS)
    package: PackageIn | None = None
    overage: RateIn | None = Field(None, description="What billable units beyond a soft quota cost instead.")

    def to_pricing(self) -> Pricing:
        """Return the same in the domain's words."""
        return Pricing(
            currency=self.currency,
            flat_fee_micros=self.flat_fee_micros,
            included_units=self.included_units,
            model=self.model,
            rate=self.rate.to_rate() if self.rate else None,
            tiers=tuple(tier.to_tier() for tier in self.tiers),
            package=Package(units=self.package.units, micros=self.package.micros) if self.package else None,
            overage=self.overage.to_rate() if self.overage else None,
        )


class RateOut(Out):
    """So many micros for so many units."""

    micros: int
    per_units: int

    @classmethod
    def of(cls, rate: Rate) -> "RateOut":
        """Return a rate's wire form."""
        return cls(micros=rate.micros, per_units=rate.per_units)


class TierOut(Out):
    """Units up to and with `up_to`; `null` is all further ones."""

    up_to: int | None
    rate: RateOut
    flat_micros: int


class PackageOut(Out):
    """Units that are sold together."""

    units: int
    micros: int


class PricingOut(Out):
    """What a plan costs, in micros."""

    currency: str
    flat_fee_micros: int
    included_units: int
    model: PricingModel
    rate: RateOut | None
    tiers: list[TierOut]
    package: PackageOut | None
    overage: RateOut | None

    @classmethod
    def of(cls, pricing: Pricing) -> "PricingOut":
        """Return a pricing's wire form."""
        package = pricing.package
        return cls(
            currency=pricing.currency,
            flat_fee_micros=pricing.flat_fee_micros,
            included_units=pricing.included_units,
            model=pricing.model,
            rate=RateOut.of(pricing.rate) if pricing.rate else None,
            tiers=[
                TierOut(up_to=tier.up_to, rate=RateOut.of(tier.rate), flat_micros=tier.flat_micros)
                for tier in pricing.tiers
            ],
            package=PackageOut(units=package.units, micros=package.micros) if package else None,
            overage=RateOut.of(pricing.overage) if pricing.overage else None,
        )
