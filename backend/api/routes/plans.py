"""Plans over HTTP, for the operator."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.deps import PlanServiceDep, PlatformAdmin
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.plans import PlanIn, PlanOut
from backend.domain import errors

router = APIRouter(prefix="/admin/plans", tags=["platform"], route_class=IdempotentRoute)


@router.post(
    "", status_code=201, summary="Create a plan version", responses=refusals(errors.AlreadyExists, *ONCE_REFUSALS)
)
async def create_plan(
    body: PlanIn, caller: PlatformAdmin, service: PlanServiceDep, response: Response, _once: Once
) -> PlanOut:
    """Store the next version of a plan, or the first of a new one. Tenants stay on the version they are on."""
    plan = await service.create(caller.actor, body.name, body.to_terms())
    response.headers["Location"] = f"/v1/admin/plans/{plan.id}"
    return PlanOut.of(plan)


@router.get("", summary="List plan versions", responses=refusals())
async def list_plans(
    _caller: PlatformAdmin,
    service: PlanServiceDep,
    name: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[PlanOut]:
    """Return plan versions, newest first."""
    page = await service.list(name, cursor=cursor, limit=limit)
    return Page(
        data=[PlanOut.of(plan) for plan in page.plans],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get("/{plan_id}", summary="Read a plan version", responses=refusals(errors.NotFound))
async def read_plan(plan_id: str, _caller: PlatformAdmin, service: PlanServiceDep) -> PlanOut:
    """Return one plan version."""
    return PlanOut.of(await service.get(plan_id))
