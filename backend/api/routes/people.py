"""People, as they see themselves, over HTTP."""

from fastapi import APIRouter, Response

from backend.api.deps import PasswordServiceDep, PeopleServiceDep, PersonCaller, SessionServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.auth import MeOut, PasswordChangeIn, SessionOut
from backend.api.schemas.common import Page
from backend.domain import errors

router = APIRouter(prefix="/me", tags=["auth"])


@router.get("", summary="Who am I", responses=refusals(errors.Forbidden))
async def read_me(caller: PersonCaller, service: PeopleServiceDep) -> MeOut:
    """Return who is signed in, where, and with which scopes."""
    return MeOut.of(await service.profile(caller), caller)


@router.post(
    "/password",
    status_code=204,
    summary="Change your password",
    response_class=Response,
    responses=refusals(
        errors.Forbidden, errors.ReauthenticationRequired, errors.WeakPassword, errors.BadRequest, errors.TooMany
    ),
)
async def change_password(body: PasswordChangeIn, caller: PersonCaller, service: PasswordServiceDep) -> None:
    """Set a new password. Every other login ends."""
    await service.change(caller, current=body.current_password, new=body.new_password)


@router.get("/sessions", summary="List your logins", responses=refusals(errors.Forbidden))
async def list_sessions(caller: PersonCaller, service: SessionServiceDep) -> Page[SessionOut]:
    """Return the caller's logins that are alive, the last used first: there are few, so all stand on one page."""
    return Page(data=[SessionOut.of(session, caller) for session in await service.list(caller)])


@router.delete(
    "/sessions/{session_id}",
    status_code=204,
    summary="End a login",
    response_class=Response,
    responses=refusals(errors.Forbidden, errors.NotFound),
)
async def end_session(session_id: str, caller: PersonCaller, service: SessionServiceDep) -> None:
    """End one of the caller's own logins: its tokens are refused from the next request on."""
    await service.end(caller, session_id)
