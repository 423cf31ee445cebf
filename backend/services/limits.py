"""Limits, as those who live under them may look them up and lower them."""

from dataclasses import dataclass, replace
from typing import Any, TypedDict

from backend.domain.admission import Standing
from backend.domain.api_keys import Environment, audit_view
from backend.domain.attenuation import require_within
from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller, PredictCaller
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, KeyNotChangeable, NotFound
from backend.domain.ids import KeyId
from backend.domain.limits import Enforcement
from backend.domain.lowered_limits import LoweredLimits
from backend.domain.plans import Plan
from backend.domain.scopes import Scope
from backend.services.ports import Admission, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsReport:
    """The plan, and where the caller stands with it in one environment."""

    plan: Plan
    environment: Environment
    standing: Standing
    enforcement: Enforcement


class LimitsService:
    """Reads limits, spending nothing."""

    def __init__(self, *, admission: Admission) -> None:
        self._admission = admission

    async def report(self, caller: PredictCaller) -> LimitsReport:
        """Return every limit that applies to the caller's predictions, and what is left of each.

        Raises:
            EnforcementUnavailable: the limits' store does not answer.
        """
        rates = (*caller.rates, *caller.model_rates)
        standing = await self._admission.standing(caller.tenant_id, caller.environment, rates, caller.quotas)
        return LimitsReport(
            plan=caller.plan, environment=caller.environment, standing=standing, enforcement=caller.enforcement
        )


class LimitsChange(TypedDict, total=False):
    """What is to change; what is left out stays. ``None`` is as the plan says, for one model or for all of them."""

    rate_per_minute: int | None
    monthly_quota: int | None
    models: dict[str, int | None] | None


class LimitLoweringService:
    """Lowers limits below what the plan gives: the tenant's own, or one key's."""

    def __init__(self, *, unit: UnitOfWork, admission: Admission, clock: Clock) -> None:
        self._unit = unit
        self._admission = admission
        self._clock = clock

    async def lower(self, caller: Caller, key_id: str | None, change: LimitsChange) -> LoweredLimits:
        """Change what is sent, with effect on the next request everywhere; return what holds below the plan.

        Raises:
            Invalid: a limit is above the plan's.
            NotFound: there is no key of that id, or it is another tenant's.
            KeyNotChangeable: the key is revoked.
            InsufficientScope: a key's limit would be raised, which takes ``keys:write``.
            ScopeExceedsGrantor: a key would be wider than whoever changes it.
        """
        await self._unit.tenants.hold(caller.tenant_id)
        plan = await self._unit.subscriptions.current_plan(caller.tenant_id, self._clock.now())
        if plan is None:
            raise NotFound
        _require_below(plan, change)
        return await (self._of_tenant(caller, change) if key_id is None else self._of_key(caller, key_id, change))

    async def _of_tenant(self, caller: Caller, change: LimitsChange) -> LoweredLimits:
        tenant = await self._unit.tenants.get(caller.tenant_id)
        if tenant is None:
            raise NotFound
        limits = _changed(tenant.limits, change)
        if limits == tenant.limits:
            return limits
        changed = await self._unit.tenants.lower_limits(tenant.id, limits)
        await self._record(caller, tenant.id, tenant.limits.to_dict(), limits.to_dict())
        self._unit.after_commit(lambda: self._admission.announce(tenant.id, None, changed.version))
        return limits

    async def _of_key(self, caller: Caller, key_id: str, change: LimitsChange) -> LoweredLimits:
        before = await self._unit.api_keys.hold(caller.tenant_id, KeyId(key_id))
        if before is None:
            raise NotFound
        if before.revoked_at is not None:
            raise KeyNotChangeable
        own = LoweredLimits(rate_per_minute=before.rate_per_minute, monthly_quota=before.monthly_quota)
        limits = _changed(own, change)
        if limits == own:
            return limits
        if _is_raised(own.rate_per_minute, limits.rate_per_minute) or _is_raised(
            own.monthly_quota, limits.monthly_quota
        ):
            caller.require(Scope.KEYS_WRITE)
        reach = caller.reach
        wide = replace(reach, rate_per_minute=limits.rate_per_minute, monthly_quota=limits.monthly_quota)
        require_within(replace(wide, scopes=frozenset()), reach)
        key = replace(
            before,
            rate_per_minute=limits.rate_per_minute,
            monthly_quota=limits.monthly_quota,
            version=before.version + 1,
        )
        await self._unit.api_keys.store(caller.tenant_id, key)
        await self._record(caller, key.id, audit_view(before), audit_view(key))
        self._unit.after_commit(lambda: self._admission.announce(caller.tenant_id, key.id, key.version))
        return limits

    async def _record(self, caller: Caller, target_id: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        entry = AuditEntry(
            actor=caller.actor, action=Action.LIMITS_UPDATED, target_id=target_id, before=before, after=after
        )
        await self._unit.audit.record(caller.tenant_id, entry)


def _changed(limits: LoweredLimits, change: LimitsChange) -> LoweredLimits:
    models: dict[str, int | None] = dict(limits.models)
    if "models" in change:
        sent = change["models"]
        models = {} if sent is None else models | sent
    return LoweredLimits(
        rate_per_minute=change.get("rate_per_minute", limits.rate_per_minute),
        monthly_quota=change.get("monthly_quota", limits.monthly_quota),
        models=tuple(sorted((name, rate) for name, rate in models.items() if rate is not None)),
    )


def _require_below(plan: Plan, change: LimitsChange) -> None:
    problems = []
    rate, quota = change.get("rate_per_minute"), change.get("monthly_quota")
    if rate is not None and rate > plan.rate_per_minute:
        problems.append(FieldError("/rate_limit/per_minute", f"is above the plan's {plan.rate_per_minute}"))
    if quota is not None and plan.monthly_quota is not None and quota > plan.monthly_quota:
        problems.append(FieldError("/monthly_quota", f"is above the plan's {plan.monthly_quota}"))
    for name, of_model in (change.get("models") or {}).items():
        most = plan.rate_of(name)
        if of_model is not None and of_model > most:
            problems.append(FieldError(f"/models/{name}/per_minute", f"is above the plan's {most}"))
    if problems:
        raise Invalid(errors=tuple(problems))


def _is_raised(before: int | None, after: int | None) -> bool:
    return before is not None and (after is None or after > before)
