"""Members and the tenant they belong to, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.deps import (
    MemberServiceDep,
    MembersReader,
    MembersWriter,
    OwnTenantServiceDep,
    TenantWriter,
    UserCaller,
)
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.members import MemberChangeIn, MemberOut, TenantChangeIn, TenantOut
from backend.domain import errors

router = APIRouter(tags=["tenant"])


@router.get("/tenant", summary="Read your tenant", responses=refusals(errors.Forbidden))
async def read_tenant(caller: UserCaller, service: OwnTenantServiceDep) -> TenantOut:
    """Return the tenant that the login is in."""
    return TenantOut.of(await service.read(caller))


@router.patch("/tenant", summary="Rename your tenant", responses=refusals(errors.BadRequest))
async def change_tenant(body: TenantChangeIn, caller: TenantWriter, service: OwnTenantServiceDep) -> TenantOut:
    """Change the display name. Slug, plan and status are the operator's."""
    return TenantOut.of(await service.rename(caller, body.name))


@router.get("/members", summary="List members", responses=refusals())
async def list_members(
    caller: MembersReader,
    service: MemberServiceDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[MemberOut]:
    """Return the tenant's members, oldest first."""
    page = await service.list(caller, cursor=cursor, limit=limit)
    return Page(
        data=[MemberOut.of(member) for member in page.members],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.patch(
    "/members/{member_id}",
    summary="Change a member's role",
    responses=refusals(errors.NotFound, errors.RoleNotGrantable, errors.LastOwner, errors.BadRequest),
)
async def change_member(
    member_id: str, body: MemberChangeIn, caller: MembersWriter, service: MemberServiceDep
) -> MemberOut:
    """Change what a member may do, from the member's next request on."""
    return MemberOut.of(await service.set_role(caller, member_id, body.role))


@router.delete(
    "/members/{member_id}",
    status_code=204,
    summary="Remove a member",
    response_class=Response,
    responses=refusals(errors.NotFound, errors.RoleNotGrantable, errors.LastOwner),
)
async def remove_member(member_id: str, caller: MembersWriter, service: MemberServiceDep) -> None:
    """Take a member's seat away: their tokens are refused from the next request on."""
    await service.remove(caller, member_id)
