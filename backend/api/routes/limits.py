"""Limits over HTTP."""

from fastapi import APIRouter, Response

from backend.api.deps import LimitsReaderCaller, LimitsServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.limits import LimitsOut
from backend.domain import errors

router = APIRouter(prefix="/limits", tags=["limits"])


@router.get("", summary="Read limits", responses=refusals(errors.EnforcementUnavailable))
async def read_limits(caller: LimitsReaderCaller, service: LimitsServiceDep, response: Response) -> LimitsOut:
    """Return the plan, the rate limits and the quota that apply to the caller, and what is left of each."""
    response.headers["Cache-Control"] = "no-store"
    return LimitsOut.of(await service.report(caller))
