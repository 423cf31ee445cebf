"""Self sign-up over HTTP; where it is switched off these routes answer 404."""

from fastapi import APIRouter, Depends, Request

from backend.api.deps import SignUpServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.auth import AcceptedForDelivery, ConfirmedOut, ConfirmIn, RegisterIn
from backend.api.throttling import Surface, Throttled
from backend.domain import errors

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post(
    "/register",
    status_code=202,
    summary="Sign up",
    dependencies=[Depends(Throttled(Surface.REGISTER))],
    responses=refusals(errors.NotFound, errors.WeakPassword, errors.BadRequest, errors.TooMany, public=True),
)
async def register(body: RegisterIn, service: SignUpServiceDep) -> AcceptedForDelivery:
    """Mail a link that confirms the address. The answer is the same for an address that has an account."""
    await service.register(email=body.email, password=body.password, tenant_name=body.tenant_name)
    return AcceptedForDelivery()


@router.post(
    "/confirm",
    summary="Confirm a sign-up",
    dependencies=[Depends(Throttled(Surface.CONFIRM))],
    responses=refusals(errors.NotFound, errors.LinkExpired, errors.BadRequest, errors.TooMany, public=True),
)
async def confirm(body: ConfirmIn, request: Request, service: SignUpServiceDep) -> ConfirmedOut:
    """Make the user and the tenant that were asked for."""
    tenant = await service.confirm(
        token=body.token,
        address=request.scope["client_address"] or "",
        request_id=request.scope["request_id"],
    )
    return ConfirmedOut(tenant_id=tenant.id, tenant_slug=tenant.slug, tenant_name=tenant.name)
