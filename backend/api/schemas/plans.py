"""Plans on the wire."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.api.schemas.api_keys import RateLimit
from backend.api.schemas.common import In, ModelName, Out
from backend.api.schemas.pricing import PricingIn, PricingOut
from backend.domain.plans import Plan, PlanTerms, QuotaMode

PlanName = Annotated[
    str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
]
PlanText = Annotated[str, StringConstraints(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_@-]+$")]
"""A plan as callers name it: `pro` is its newest version, `pro@2` that one, `pln_…` is an id."""


class PlanIn(In):
    """The next version of a plan. Limits are in rows."""

    name: PlanName = Field(examples=["pro"])
    rate_per_minute: int = Field(ge=1, le=10_000_000, examples=[6000])
    monthly_quota: int | None = Field(None, ge=0, le=10**15, description="`null` is no cap.", examples=[1_000_000])
    quota_mode: Annotated[QuotaMode, Field(strict=False)] = Field(
        QuotaMode.HARD, description="At the cap: `hard` refuses, `soft` serves on as overage."
    )
    bills_cache_hits: bool = False
    max_api_keys: int = Field(100, ge=0, le=1_000_000)
    pricing: PricingIn = Field(default_factory=PricingIn)
    models: dict[ModelName, RateLimit] = Field(
        default_factory=dict,
        max_length=100,
        description="A tenant's limits for single models, by name.",
        examples=[{"iris": {"per_minute": 600}}],
    )

    def to_terms(self) -> PlanTerms:
        """Return the same in the domain's words."""
        return PlanTerms(
            rate_per_minute=self.rate_per_minute,
            monthly_quota=self.monthly_quota,
            quota_mode=self.quota_mode,
            bills_cache_hits=self.bills_cache_hits,
            max_api_keys=self.max_api_keys,
            pricing=self.pricing.to_pricing(),
            model_rates=tuple(sorted((name, limit.per_minute) for name, limit in self.models.items())),
        )


class PlanOut(Out):
    """One version of a plan; it never changes."""

    id: str
    name: str
    version: int
    rate_per_minute: int
    monthly_quota: int | None
    quota_mode: QuotaMode
    bills_cache_hits: bool
    max_api_keys: int
    pricing: PricingOut
    models: dict[str, RateLimit]

    @classmethod
    def of(cls, plan: Plan) -> "PlanOut":
        """Return a plan version's wire form."""
        return cls(
            id=plan.id,
            name=plan.name,
            version=plan.version,
            rate_per_minute=plan.rate_per_minute,
            monthly_quota=plan.monthly_quota,
            quota_mode=plan.quota_mode,
            bills_cache_hits=plan.bills_cache_hits,
            max_api_keys=plan.max_api_keys,
            pricing=PricingOut.of(plan.pricing),
            models={name: RateLimit(per_minute=per_minute) for name, per_minute in plan.model_rates},
        )
