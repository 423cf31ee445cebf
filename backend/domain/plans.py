"""Plans: what a tenant has bought. A plan version never changes once it is stored; a change is a new version."""

import re
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from backend.domain.pricing import FREE, Pricing, PricingModel, Rate, Tier

PLAN_NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class QuotaMode(StrEnum):
    """What happens at the monthly cap."""

    HARD = "hard"
    """Further rows are refused until the next month."""
    SOFT = "soft"
    """Further rows are served and are overage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """What is sold. Limits are in rows; ``monthly_quota`` ``None`` is no cap.

    ``model_rates`` holds rows a minute of the tenant by model, in the order of their names.
    """

    rate_per_minute: int
    monthly_quota: int | None
    quota_mode: QuotaMode
    bills_cache_hits: bool
    max_api_keys: int
    pricing: Pricing = FREE
    model_rates: tuple[tuple[str, int], ...] = ()

    def rate_of(self, model: str) -> int:
        """Return the tenant's rate on one model."""
        return min(self.rate_per_minute, dict(self.model_rates).get(model, self.rate_per_minute))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(PlanTerms):
    """One immutable version of a plan."""

    id: str
    name: str
    version: int

    @classmethod
    def of_terms(cls, terms: PlanTerms, *, id: str, name: str, version: int) -> "Plan":  # noqa: A002
        """Return the terms as a version of a plan."""
        given = {field.name: getattr(terms, field.name) for field in fields(PlanTerms)}
        return cls(id=id, name=name, version=version, **given)


def audit_view(plan: Plan) -> dict[str, object]:
    """Return what the audit log keeps of a plan version: all of it."""
    return asdict(plan) | {"model_rates": dict(plan.model_rates)}


@dataclass(frozen=True, slots=True)
class PlanReference:
    """How a plan is named: ``pro`` is its newest version, ``pro@2`` that one."""

    name: str
    version: int | None

    @classmethod
    def parse(cls, text: str) -> "PlanReference | None":
        """Read a reference; ``None`` when it is none."""
        name, at, version = text.partition("@")
        if not PLAN_NAME_PATTERN.fullmatch(name):
            return None
        if not at:
            return cls(name, None)
        return cls(name, int(version)) if re.fullmatch(r"[1-9][0-9]{0,8}", version) else None


def seed_plans() -> tuple[Plan, ...]:
    """Return the plans every installation begins with. Ids are fixed, so that seeding twice changes nothing."""
    return (
        Plan(
            id="pln_00000000000000000000000001",
            name="free",
            version=1,
            rate_per_minute=60,
            monthly_quota=1_000,
            quota_mode=QuotaMode.HARD,
            bills_cache_hits=False,
            max_api_keys=10,
        ),
        Plan(
            id="pln_00000000000000000000000002",
            name="pro",
            version=1,
            rate_per_minute=6_000,
            monthly_quota=1_000_000,
            quota_mode=QuotaMode.SOFT,
            bills_cache_hits=False,
            max_api_keys=100,
            pricing=Pricing(
                flat_fee_micros=49_000_000,
                included_units=100_000,
                model=PricingModel.GRADUATED,
                tiers=(
                    Tier(up_to=500_000, rate=Rate(micros=200)),
                    Tier(up_to=None, rate=Rate(micros=120)),
                ),
                overage=Rate(micros=250),
            ),
        ),
        Plan(
            id="pln_00000000000000000000000003",
            name="enterprise",
            version=1,
            rate_per_minute=600_000,
            monthly_quota=None,
            quota_mode=QuotaMode.HARD,
            bills_cache_hits=False,
            max_api_keys=100_000,
            pricing=Pricing(
                flat_fee_micros=990_000_000,
                included_units=10_000_000,
                model=PricingModel.PER_UNIT,
                rate=Rate(micros=80_000, per_units=1_000),
            ),
        ),
    )
