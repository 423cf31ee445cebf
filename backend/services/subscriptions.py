"""Which plan a tenant is on, as the operator decides it."""

from datetime import datetime

from backend.domain.audit import Action, Actor, AuditEntry
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement
from backend.domain.plans import Plan
from backend.domain.subscriptions import Standing, Subscription
from backend.services.plan_choice import chosen_plan
from backend.services.ports import Admission, UnitOfWork


class SubscriptionService:
    """Reads and decides what a tenant is on."""

    def __init__(self, *, unit: UnitOfWork, admission: Admission, clock: Clock) -> None:
        self._unit = unit
        self._admission = admission
        self._clock = clock

    async def read(self, tenant_id: str) -> Standing:
        """Return what a tenant is on, and what follows.

        Raises:
            NotFound: no tenant has this id.
        """
        tenant = await self._unit.tenants.get(TenantId(tenant_id))
        if tenant is None:
            raise NotFound
        return await self._unit.subscriptions.standing(tenant.id, self._clock.now())

    async def put(
        self,
        actor: Actor,
        tenant_id: str,
        *,
        plan: str,
        starts_at: datetime | None = None,
        enforcement: Enforcement = Enforcement.ENFORCE,
    ) -> Standing:
        """Put a tenant on a plan from an instant on, by default now: it counts on the first request after that.

        ``enforcement`` says whether its limits refuse, or only report. What was decided for later is given up. What is
        so already changes nothing.

        Raises:
            NotFound: no tenant has this id.
            Invalid: there is no such plan, or the instant is over: what has been billed is not decided anew.
        """
        now = self._clock.now()
        if starts_at is not None and starts_at < now:
            raise Invalid(errors=(FieldError("/starts_at", "lies in the past"),))
        await self._unit.tenants.hold(TenantId(tenant_id))
        before = await self.read(tenant_id)
        wanted = await chosen_plan(self._unit.plans, plan)
        if _is_so(before, wanted, starts_at, enforcement):
            return before
        owner = TenantId(tenant_id)
        version = await self._unit.subscriptions.start(owner, wanted.id, starts_at or now, enforcement)
        after = await self._unit.subscriptions.standing(owner, now)
        entry = AuditEntry(
            actor=actor,
            action=Action.SUBSCRIPTION_STARTED,
            target_id=tenant_id,
            before=_view(before),
            after=_view(after),
        )
        await self._unit.audit.record(owner, entry)
        self._unit.after_commit(lambda: self._admission.announce(owner, None, version))
        return after


def _is_so(standing: Standing, wanted: Plan, starts_at: datetime | None, enforcement: Enforcement) -> bool:
    current, following = standing.current, standing.following
    if starts_at is None:
        same = current is not None and (current.plan.id, current.enforcement) == (wanted.id, enforcement)
        return same and following is None
    if following is None:
        return False
    return (following.plan.id, following.started_at, following.enforcement) == (wanted.id, starts_at, enforcement)


def _view(standing: Standing) -> dict[str, object]:
    return {"current": _line(standing.current), "following": _line(standing.following)}


def _line(subscription: Subscription | None) -> dict[str, object] | None:
    if subscription is None:
        return None
    plan = subscription.plan
    return {
        "plan": plan.name,
        "version": plan.version,
        "plan_id": plan.id,
        "started_at": subscription.started_at.isoformat(),
        "enforcement": subscription.enforcement,
    }
