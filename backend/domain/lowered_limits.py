"""Limits that a tenant puts on itself, below what its plan gives."""

from dataclasses import dataclass
from typing import Any

from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, RateRule
from backend.domain.plans import Plan, QuotaMode


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredLimits:
    """What a tenant has lowered; ``None`` is as the plan says. Rates are in rows a minute, by model where named.

    Should the plan become smaller later, the plan holds.
    """

    rate_per_minute: int | None = None
    monthly_quota: int | None = None
    models: tuple[tuple[str, int], ...] = ()

    def rate_under(self, plan: Plan) -> int:
        """Return the tenant's rate on a plan."""
        if self.rate_per_minute is None:
            return plan.rate_per_minute
        return min(self.rate_per_minute, plan.rate_per_minute)

    def quota_under(self, plan: Plan, tenant_id: TenantId) -> QuotaRule:
        """Return the tenant's quota on a plan. One that was lowered is hard: whoever sets a budget wants it kept."""
        own, given = self.monthly_quota, plan.monthly_quota
        if own is None or (given is not None and given < own):
            return QuotaRule(scope="tenant", subject=tenant_id, limit=given, mode=plan.quota_mode)
        return QuotaRule(scope="tenant", subject=tenant_id, limit=own, mode=QuotaMode.HARD)

    def model_rules(self, plan: Plan) -> tuple[RateRule, ...]:
        """Return one rule for each model that has a limit of its own, here or in the plan: the lower one holds."""
        most, lowered = self.rate_under(plan), dict(self.models)
        return tuple(
            [
                RateRule(scope="model", subject=name, per_window=min(lowered.get(name, most), plan.rate_of(name), most))
                for name in sorted(lowered.keys() | dict(plan.model_rates).keys())
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the form that is stored and audited."""
        return {
            "rate_per_minute": self.rate_per_minute,
            "monthly_quota": self.monthly_quota,
            "models": dict(self.models),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any] | None) -> "LoweredLimits":
        """Read the stored form."""
        if stored is None:
            return NOTHING_LOWERED
        return cls(
            rate_per_minute=stored["rate_per_minute"],
            monthly_quota=stored["monthly_quota"],
            models=tuple(sorted(stored["models"].items())),
        )


NOTHING_LOWERED = LoweredLimits()
