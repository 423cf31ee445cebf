"""A tenant, as its own people see and name it."""

from dataclasses import dataclass

from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound
from backend.domain.plans import Plan
from backend.domain.tenants import Tenant
from backend.services.ports import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTenant:
    """A tenant and what it is on."""

    tenant: Tenant
    plan: Plan | None


class OwnTenantService:
    """What a tenant may ask and change of itself."""

    def __init__(self, *, unit: UnitOfWork, clock: Clock) -> None:
        self._unit = unit
        self._clock = clock

    async def read(self, caller: Caller) -> OwnTenant:
        """Return the caller's tenant."""
        tenant = await self._unit.tenants.get(caller.tenant_id)
        if tenant is None:
            raise NotFound
        plan = await self._unit.subscriptions.current_plan(tenant.id, self._clock.now())
        return OwnTenant(tenant=tenant, plan=plan)

    async def rename(self, caller: Caller, name: str) -> OwnTenant:
        """Give the tenant another display name. Its slug, plan and status are the operator's."""
        await self._unit.tenants.hold(caller.tenant_id)
        before = await self.read(caller)
        if before.tenant.name == name:
            return before
        tenant = await self._unit.tenants.rename(caller.tenant_id, name)
        entry = AuditEntry(
            actor=caller.actor,
            action=Action.TENANT_UPDATED,
            target_id=tenant.id,
            before={"name": before.tenant.name},
            after={"name": name},
        )
        await self._unit.audit.record(tenant.id, entry)
        return OwnTenant(tenant=tenant, plan=before.plan)
