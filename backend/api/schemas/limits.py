"""Limits on the wire."""

from datetime import UTC, datetime

from pydantic import Field

from backend.api.schemas.common import Instant, Out
from backend.domain.limits import QuotaState, RateState
from backend.services.limits import LimitsReport


class PlanOut(Out):
    """The plan version the tenant is on."""

    id: str
    name: str
    version: int


class RateOut(Out):
    """One rate limit, in rows."""

    scope: str = Field(description="`key` or `tenant`.")
    per_minute: int
    remaining: int
    resets_in_s: int = Field(description="Seconds until the limit is whole again.")

    @classmethod
    def of(cls, state: RateState) -> "RateOut":
        """Return a limit's wire form."""
        return cls(
            scope=state.rule.scope,
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
    mode: str

    @classmethod
    def of(cls, state: QuotaState) -> "QuotaOut":
        """Return a quota's wire form."""
        return cls(
            scope=state.rule.scope,
            limit=state.rule.limit,
            used=state.used,
            reserved=state.reserved,
            remaining=state.remaining,
            resets_at=datetime.fromtimestamp(state.resets_at_s, UTC),
            mode=state.rule.mode,
        )


class LimitsOut(Out):
    """What applies to the caller; `quota` is the tenant's, `key_quota` the key's own where it has one."""

    plan: PlanOut
    environment: str
    rate_limits: list[RateOut]
    quota: QuotaOut | None
    key_quota: QuotaOut | None

    @classmethod
    def of(cls, report: LimitsReport) -> "LimitsOut":
        """Return a report's wire form."""
        quotas = {state.rule.scope: QuotaOut.of(state) for state in report.standing.quotas}
        return cls(
            plan=PlanOut(id=report.plan.id, name=report.plan.name, version=report.plan.version),
            environment=report.environment,
            rate_limits=[RateOut.of(state) for state in report.standing.rates],
            quota=quotas.get("tenant"),
            key_quota=quotas.get("key"),
        )
