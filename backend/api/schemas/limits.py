"""Limits on the wire."""

from datetime import UTC, datetime
from typing import Self

from pydantic import Field, model_validator

from backend.api.schemas.api_keys import RateLimit
from backend.api.schemas.common import In, Instant, ModelName, Out
from backend.domain.limits import Enforcement, QuotaState, RateState
from backend.domain.lowered_limits import LoweredLimits
from backend.services.limits import LimitsChange, LimitsReport


class PlanOut(Out):
    """The plan version the tenant is on."""

    id: str
    name: str
    version: int


class RateOut(Out):
    """One rate limit, in rows."""

    scope: str = Field(description="`key`, `tenant`, or `model` for one model of the tenant.")
    model: str | None = Field(description="Which model, where the limit is one's.")
    per_minute: int
    remaining: int
    resets_in_s: int = Field(description="Seconds until the limit is whole again.")

    @classmethod
    def of(cls, state: RateState) -> "RateOut":
        """Return a limit's wire form."""
        return cls(
            scope=state.rule.scope,
            model=state.rule.subject if state.rule.scope == "model" else None,
            per_minute=state.rule.per_window,
            remaining=state.remaining,
            resets_in_s=state.reset_s,
        )


class QuotaOut(Out):
    """One month's quota, in rows; `limit` and `remaining` are null without a cap."""

    scope: str
    limit: int | None
    used: int
    reserved: int
    remaining: int | None
    resets_at: Instant
    mode: str = Field(description="`hard`, `soft`, or `shadow` while nothing is enforced.")

    @classmethod
    def of(cls, state: QuotaState, enforcement: Enforcement) -> "QuotaOut":
        """Return a quota's wire form."""
        return cls(
            scope=state.rule.scope,
            limit=state.rule.limit,
            used=state.used,
            reserved=state.reserved,
            remaining=state.remaining,
            resets_at=datetime.fromtimestamp(state.resets_at_s, UTC),
            mode=state.rule.mode if enforcement is Enforcement.ENFORCE else enforcement,
        )


class LimitsOut(Out):
    """What applies to the caller; `quota` is the tenant's, `key_quota` the key's own where it has one."""

    plan: PlanOut
    environment: str
    enforcement: Enforcement = Field(description="`shadow`: what is over its limits passes, and is counted.")
    rate_limits: list[RateOut]
    quota: QuotaOut | None
    key_quota: QuotaOut | None

    @classmethod
    def of(cls, report: LimitsReport) -> "LimitsOut":
        """Return a report's wire form."""
        quotas = {state.rule.scope: QuotaOut.of(state, report.enforcement) for state in report.standing.quotas}
        return cls(
            plan=PlanOut(id=report.plan.id, name=report.plan.name, version=report.plan.version),
            environment=report.environment,
            enforcement=report.enforcement,
            rate_limits=[RateOut.of(state) for state in report.standing.rates],
            quota=quotas.get("tenant"),
            key_quota=quotas.get("key"),
        )


class LimitsIn(In):
    """Limits below the plan's. What is left out stays; `null` is as the plan says again."""

    key_id: str | None = Field(None, max_length=40, description="The key whose own limits are meant, not the tenant's.")
    rate_limit: RateLimit | None = None
    monthly_quota: int | None = Field(None, ge=0, le=10**15, description="Rows each month; always a hard limit.")
    models: dict[ModelName, RateLimit | None] | None = Field(
        None, max_length=100, description="The tenant's limits for single models, by name."
    )

    @model_validator(mode="after")
    def _require_models_of_the_tenant(self) -> Self:
        if self.key_id is not None and self.models is not None:
            raise ValueError("limits for single models are the tenant's, not a key's")
        return self

    def to_change(self) -> LimitsChange:
        """Return what was sent, in the services' words."""
        sent, change = self.model_fields_set, LimitsChange()
        if "rate_limit" in sent:
            change["rate_per_minute"] = None if self.rate_limit is None else self.rate_limit.per_minute
        if "monthly_quota" in sent:
            change["monthly_quota"] = self.monthly_quota
        if "models" in sent:
            models = self.models
            change["models"] = (
                None
                if models is None
                else {name: None if limit is None else limit.per_minute for name, limit in models.items()}
            )
        return change


class LoweredLimitsOut(Out):
    """What the tenant, or one of its keys, has below the plan; null is as the plan says."""

    key_id: str | None
    rate_limit: RateLimit | None
    monthly_quota: int | None
    models: dict[str, RateLimit]

    @classmethod
    def of(cls, limits: LoweredLimits, key_id: str | None) -> "LoweredLimitsOut":
        """Return the wire form."""
        rate = limits.rate_per_minute
        return cls(
            key_id=key_id,
            rate_limit=None if rate is None else RateLimit(per_minute=rate),
            monthly_quota=limits.monthly_quota,
            models={name: RateLimit(per_minute=per_minute) for name, per_minute in limits.models},
        )
