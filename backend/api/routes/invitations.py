"""Invitations over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from backend.api.deps import AcceptanceServiceDep, ClockDep, InvitationServiceDep, MembersWriter, SignedInCaller
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.members import AcceptedOut, AcceptIn, InvitationIn, InvitationOut
from backend.api.throttling import Surface, Throttled
from backend.domain import errors
from backend.services.acceptances import Acceptance

router = APIRouter(prefix="/invitations", tags=["tenant"], route_class=IdempotentRoute)


@router.post(
    "",
    status_code=201,
    summary="Invite somebody",
    responses=refusals(errors.RoleNotGrantable, errors.ScopeExceedsGrantor, errors.AlreadyMember, *ONCE_REFUSALS),
)
async def create_invitation(
    body: InvitationIn, caller: MembersWriter, service: InvitationServiceDep, clock: ClockDep, _once: Once
) -> InvitationOut:
    """Mail an invitation. One that is open for the address already is replaced: this sends it again."""
    return InvitationOut.of(await service.create(caller, email=body.email, role=body.role), clock.now())


@router.get("", summary="List invitations", responses=refusals())
async def list_invitations(
    caller: MembersWriter,
    service: InvitationServiceDep,
    clock: ClockDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[InvitationOut]:
    """Return the tenant's invitations, newest first."""
    page = await service.list(caller, cursor=cursor, limit=limit)
    now = clock.now()
    return Page(
        data=[InvitationOut.of(invitation, now) for invitation in page.invitations],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.delete(
    "/{invitation_id}",
    status_code=204,
    summary="Take an invitation back",
    response_class=Response,
    responses=refusals(errors.NotFound),
)
async def revoke_invitation(invitation_id: str, caller: MembersWriter, service: InvitationServiceDep) -> None:
    """Take an invitation back. One that is over already stays as it is."""
    await service.revoke(caller, invitation_id)


@router.post(
    "/accept",
    summary="Accept an invitation",
    dependencies=[Depends(Throttled(Surface.ACCEPT))],
    responses=refusals(
        errors.NotFound,
        errors.Unauthenticated,
        errors.ReauthenticationRequired,
        errors.TenantSuspended,
        errors.AlreadyMember,
        errors.InvitationExpired,
        errors.WeakPassword,
        errors.BadRequest,
        errors.TooMany,
        public=True,
    ),
)
async def accept_invitation(
    body: AcceptIn, request: Request, caller: SignedInCaller, service: AcceptanceServiceDep
) -> AcceptedOut:
    """Take the seat: with a new password, or as who has an account signed in to it or with its password."""
    taken = await service.accept(
        Acceptance(
            token=body.token,
            password=body.password,
            caller=caller,
            address=request.scope["client_address"] or "",
            request_id=request.scope["request_id"],
        )
    )
    return AcceptedOut.of(taken)
