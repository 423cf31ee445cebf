"""Which plan a tenant is on, over HTTP, for the operator."""

from fastapi import APIRouter

from backend.api.deps import PlatformAdmin, SubscriptionServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.subscriptions import StandingOut, SubscriptionIn
from backend.domain import errors

router = APIRouter(prefix="/admin/tenants/{tenant_id}/subscription", tags=["platform"])


@router.get("", summary="Read a tenant's subscription", responses=refusals(errors.NotFound))
async def read_subscription(tenant_id: str, _caller: PlatformAdmin, service: SubscriptionServiceDep) -> StandingOut:
    """Return what a tenant is on, and what follows where that is decided."""
    return StandingOut.of(tenant_id, await service.read(tenant_id))


@router.put("", summary="Put a tenant on a plan", responses=refusals(errors.NotFound, errors.BadRequest))
async def put_subscription(
    tenant_id: str, body: SubscriptionIn, caller: PlatformAdmin, service: SubscriptionServiceDep
) -> StandingOut:
    """Put a tenant on a plan, now or later, with effect on the first request after that everywhere.

    What had been decided for later is given up. The same again changes nothing.
    """
    standing = await service.put(
        caller.actor, tenant_id, plan=body.plan, starts_at=body.starts_at, enforcement=body.enforcement
    )
    return StandingOut.of(tenant_id, standing)
