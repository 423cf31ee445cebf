"""Forgotten passwords over HTTP, for those who cannot sign in."""

from fastapi import APIRouter, Depends, Request, Response

from backend.api.deps import PasswordServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.auth import AcceptedForDelivery, ForgotIn, ResetIn
from backend.api.throttling import Surface, Throttled
from backend.domain import errors

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post(
    "/forgot",
    status_code=202,
    summary="Ask for a new password",
    dependencies=[Depends(Throttled(Surface.FORGOT))],
    responses=refusals(errors.BadRequest, errors.TooMany, public=True),
)
async def forget_password(body: ForgotIn, service: PasswordServiceDep) -> AcceptedForDelivery:
    """Mail a link that sets a new password. The answer is the same for an address that nobody has."""
    await service.forget(body.email)
    return AcceptedForDelivery()


@router.post(
    "/reset",
    status_code=204,
    summary="Set a new password",
    response_class=Response,
    dependencies=[Depends(Throttled(Surface.RESET))],
    responses=refusals(errors.LinkExpired, errors.WeakPassword, errors.BadRequest, errors.TooMany, public=True),
)
async def reset_password(body: ResetIn, request: Request, service: PasswordServiceDep) -> None:
    """Set a new password with a mailed token. Every login of the account ends."""
    await service.reset(
        token=body.token,
        new=body.new_password,
        address=request.scope["client_address"] or "",
        request_id=request.scope["request_id"],
    )
