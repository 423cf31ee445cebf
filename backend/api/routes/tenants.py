"""Tenants over HTTP, for the operator."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.deps import CursorCodecDep, PlatformAdmin, TenantServiceDep
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.tenants import BillerCustomerIn, BillerCustomerOut, CustomerOut, NewTenantIn
from backend.domain import errors
from backend.domain.tenants import TenantStatus
from backend.services.ports.store import TenantFilter

router = APIRouter(prefix="/admin/tenants", tags=["platform"], route_class=IdempotentRoute)


@router.post("", status_code=201, summary="Create a tenant", responses=refusals(errors.AlreadyExists, *ONCE_REFUSALS))
async def create_tenant(
    body: NewTenantIn, _caller: PlatformAdmin, service: TenantServiceDep, response: Response, _once: Once
) -> CustomerOut:
    """Make a tenant on a plan. Nobody sits in it yet."""
    tenant = await service.create(slug=body.slug, name=body.name or body.slug, plan=body.plan)
    response.headers["Location"] = f"/v1/admin/tenants/{tenant.id}"
    return CustomerOut.of(tenant)


@router.get("", summary="List tenants", responses=refusals())
async def list_tenants(
    _caller: PlatformAdmin,
    service: TenantServiceDep,
    cursors: CursorCodecDep,
    status: TenantStatus | None = None,
    slug: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[CustomerOut]:
    """Return the tenants, newest first."""
    page = await service.page(cursors, TenantFilter(status=status, slug=slug), cursor=cursor, limit=limit)
    return Page(
        data=[CustomerOut.of(tenant) for tenant in page.tenants],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get("/{tenant_id}", summary="Read a tenant", responses=refusals(errors.NotFound))
async def read_customer(tenant_id: str, _caller: PlatformAdmin, service: TenantServiceDep) -> CustomerOut:
    """Return one tenant."""
    return CustomerOut.of(await service.get(tenant_id))


@router.post("/{tenant_id}/suspend", summary="Suspend a tenant", responses=refusals(errors.NotFound))
async def suspend_tenant(tenant_id: str, _caller: PlatformAdmin, service: TenantServiceDep) -> CustomerOut:
    """Refuse the tenant's credentials from the next request on. Suspending it again changes nothing."""
    return CustomerOut.of(await service.set_status_of(tenant_id, TenantStatus.SUSPENDED))


@router.post("/{tenant_id}/resume", summary="Resume a tenant", responses=refusals(errors.NotFound))
async def resume_tenant(tenant_id: str, _caller: PlatformAdmin, service: TenantServiceDep) -> CustomerOut:
    """Accept the tenant's credentials again. Resuming it again changes nothing."""
    return CustomerOut.of(await service.set_status_of(tenant_id, TenantStatus.ACTIVE))


@router.get(
    "/{tenant_id}/biller-customer", summary="Read a tenant's id at the biller", responses=refusals(errors.NotFound)
)
async def read_biller_customer(tenant_id: str, _caller: PlatformAdmin, service: TenantServiceDep) -> BillerCustomerOut:
    """Return under which id the outside biller knows a tenant."""
    return BillerCustomerOut.of(await service.biller_customer_of(tenant_id))


@router.put(
    "/{tenant_id}/biller-customer", summary="Set a tenant's id at the biller", responses=refusals(errors.NotFound)
)
async def set_biller_customer(
    tenant_id: str, body: BillerCustomerIn, _caller: PlatformAdmin, service: TenantServiceDep
) -> BillerCustomerOut:
    """Set under which id the outside biller knows a tenant; `null` ends the pushes of its usage."""
    return BillerCustomerOut.of(await service.set_biller_customer_of(tenant_id, body.customer_id))
