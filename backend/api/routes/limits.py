"""Limits over HTTP."""

from fastapi import APIRouter, Response

from backend.api.deps import LimitLoweringServiceDep, LimitsReaderCaller, LimitsServiceDep, LimitsWriter
from backend.api.refusals import refusals
from backend.api.schemas.limits import LimitsIn, LimitsOut, LoweredLimitsOut
from backend.domain import errors

router = APIRouter(prefix="/limits", tags=["limits"])


@router.get("", summary="Read limits", responses=refusals(errors.EnforcementUnavailable))
async def read_limits(caller: LimitsReaderCaller, service: LimitsServiceDep, response: Response) -> LimitsOut:
    """Return the plan, the rate limits and the quota that apply to the caller, and what is left of each."""
    response.headers["Cache-Control"] = "no-store"
    return LimitsOut.of(await service.report(caller))


@router.put(
    "",
    summary="Lower limits",
    responses=refusals(errors.NotFound, errors.KeyNotChangeable, errors.ScopeExceedsGrantor, errors.BadRequest),
)
async def lower_limits(body: LimitsIn, caller: LimitsWriter, service: LimitLoweringServiceDep) -> LoweredLimitsOut:
    """Lower the tenant's limits, or one key's, below the plan's, with effect on the next request everywhere."""
    return LoweredLimitsOut.of(await service.lower(caller, body.key_id, body.to_change()), body.key_id)
