"""Corrections of the books: new signed rows that name what they correct, who and why (LEDGER.md R8)."""

from dataclasses import dataclass

from backend.domain.adjustments import Adjustment, AdjustmentKind, StoredAdjustment
from backend.domain.audit import Action, AuditEntry
from backend.domain.billing_periods import period_end
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import period_of, period_start
from backend.domain.usage import LEDGER_START, LedgerPosition, PlanUsage
from backend.services.billing_access import require_period
from backend.services.ports import CursorCodec, UnitOfWork, UsageReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What is asked for: ``units`` more (or fewer) of an event, or of a tenant's period as a whole."""

    event_id: str | None
    period: str | None
    tenant_id: str | None
    units: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustmentPage:
    """Adjustments in commit order."""

    adjustments: tuple[StoredAdjustment, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Corrected:
    """What is corrected, and how many billable units of it there are."""

    tenant_id: TenantId
    period: str
    plan_id: str
    plan_version: int
    billable_units: int


class AdjustmentService:
    """Books corrections, and reads them."""

    def __init__(self, *, unit: UnitOfWork, reader: UsageReader, cursors: CursorCodec, clock: Clock) -> None:
        self._unit = unit
        self._reader = reader
        self._cursors = cursors
        self._clock = clock

    async def create(self, caller: PlatformCaller, wanted: Correction) -> Adjustment:
        """Book a correction in the open period.

        Raises:
            NotFound: there is no such event, or no such tenant.
            Invalid: it names neither an event nor a period, or both; or takes back more than is billed.
        """
        if wanted.units == 0:
            raise Invalid(errors=(FieldError("/units", "must not be 0"),))
        corrected = await self._of_event(wanted) if wanted.event_id else await self._of_period(wanted)
        if corrected.billable_units + wanted.units < 0:
            raise Invalid(errors=(FieldError("/units", "takes back more than is billed"),))
        now = self._clock.now()
        adjustment = Adjustment(
            id=new_id("adj", at_s=now.timestamp()),
            tenant_id=corrected.tenant_id,
            kind=AdjustmentKind.CORRECTION,
            period=period_of(now.timestamp()),
            corrects_period=corrected.period,
            event_id=wanted.event_id,
            units=wanted.units,
            billable_units=wanted.units,
            plan_id=corrected.plan_id,
            plan_version=corrected.plan_version,
            reason=wanted.reason,
            actor_kind=caller.actor.kind,
            actor_id=caller.actor.id,
            created_at=now,
        )
        await self._unit.adjustments.add(corrected.tenant_id, adjustment)
        after = {"period": adjustment.period, "corrects_period": corrected.period, "event_id": wanted.event_id}
        entry = AuditEntry(
            actor=caller.actor,
            action=Action.USAGE_ADJUSTED,
            target_id=adjustment.id,
            after=after | {"units": wanted.units, "reason": wanted.reason},
        )
        await self._unit.audit.record(corrected.tenant_id, entry)
        return adjustment

    async def list(
        self, caller: Caller | PlatformCaller, *, period: str | None, cursor: str | None, limit: int
    ) -> AdjustmentPage:
        """Return adjustments booked in a period, or in any: a tenant's own, or to the platform every tenant's."""
        whose = caller.tenant_id if isinstance(caller, Caller) else "*"
        purpose = f"adjustments:{whose}:{period}"
        after = LedgerPosition.parse(self._cursors.decode(purpose, cursor)) if cursor else LEDGER_START
        if isinstance(caller, Caller):
            found = await self._unit.adjustments.page(caller.tenant_id, period, after, limit + 1)
        else:
            found = await self._unit.adjustments.page_of_all_tenants(period, after, limit + 1)
        more = len(found) > limit
        next_cursor = self._cursors.encode(purpose, str(found[limit - 1].position)) if more else None
        return AdjustmentPage(adjustments=tuple(found[:limit]), next_cursor=next_cursor)

    async def _of_event(self, wanted: Correction) -> _Corrected:
        event_id = wanted.event_id or ""
        if wanted.period is not None:
            raise Invalid(errors=(FieldError("/period", "is not needed: the event has its own"),))
        if wanted.tenant_id is None:
            event = await self._reader.event_of_all_tenants(event_id)
        else:
            event = await self._reader.event(TenantId(wanted.tenant_id), event_id)
        if event is None:
            raise NotFound("There is no such event.")
        await self._unit.tenants.hold(event.tenant_id)
        earlier = await self._unit.adjustments.billable_of_event(event.tenant_id, event.id)
        return _Corrected(
            tenant_id=event.tenant_id,
            period=event.period,
            plan_id=event.plan_id,
            plan_version=event.plan_version,
            billable_units=event.billable_units + earlier,
        )

    async def _of_period(self, wanted: Correction) -> _Corrected:
        if wanted.period is None:
            raise Invalid(errors=(FieldError("/event_id", "is needed, or a period"),))
        if wanted.tenant_id is None:
            raise Invalid(errors=(FieldError("/tenant_id", "is needed with a period"),))
        if require_period(wanted.period, "/period") > period_of(self._clock.now_s()):
            raise Invalid(errors=(FieldError("/period", "has not begun"),))
        tenant_id = TenantId(wanted.tenant_id)
        if await self._unit.tenants.get(tenant_id) is None:
            raise NotFound("There is no such tenant.")
        await self._unit.tenants.hold(tenant_id)
        most = await self._main_plan(tenant_id, wanted.period)
        earlier = await self._unit.adjustments.billable_of_period(tenant_id, wanted.period)
        return _Corrected(
            tenant_id=tenant_id,
            period=wanted.period,
            plan_id=most.plan_id,
            plan_version=most.plan_version,
            billable_units=most.billable_units + earlier,
        )

    async def _main_plan(self, tenant_id: TenantId, period: str) -> PlanUsage:
        """Return the plan version that most of a period was used under, or that the tenant was on."""
        usage = await self._reader.plan_usage(tenant_id, period)
        if usage:
            return max(usage, key=lambda used: used.billable_units)
        spans = await self._unit.subscriptions.spans(tenant_id, period_start(period), period_end(period))
        plan = await self._unit.plans.get(spans[-1].plan_id) if spans else None
        if plan is None:
            raise Invalid(errors=(FieldError("/period", "is one in which the tenant had no plan"),))
        return PlanUsage(plan_id=plan.id, plan_version=plan.version, events=0, units=0, billable_units=0)
