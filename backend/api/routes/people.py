"""People, as they see themselves, over HTTP."""

from fastapi import APIRouter

from backend.api.deps import PeopleServiceDep, UserCaller
from backend.api.refusals import refusals
from backend.api.schemas.auth import MeOut
from backend.domain import errors

router = APIRouter(tags=["auth"])


@router.get("/me", summary="Who am I", responses=refusals(errors.Forbidden))
async def read_me(caller: UserCaller, service: PeopleServiceDep) -> MeOut:
    """Return who is signed in, in which tenant, and with which scopes."""
    return MeOut.of(await service.profile(caller), caller)
