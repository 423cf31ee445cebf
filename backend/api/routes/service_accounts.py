"""Service accounts over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.deps import MembersWriter, ServiceAccountServiceDep
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.service_accounts import NewServiceAccountOut, ServiceAccountIn, ServiceAccountOut
from backend.domain import errors

router = APIRouter(prefix="/service-accounts", tags=["service accounts"], route_class=IdempotentRoute)


@router.post(
    "",
    status_code=201,
    summary="Create a service account",
    responses=refusals(errors.ScopeExceedsGrantor, *ONCE_REFUSALS),
)
async def create_service_account(
    body: ServiceAccountIn, caller: MembersWriter, service: ServiceAccountServiceDep, response: Response, _once: Once
) -> NewServiceAccountOut:
    """Make an account for a program. Its secret stands in this answer and nowhere else."""
    account, secret = await service.create(caller, name=body.name, scopes=frozenset(body.scopes))
    response.headers["Cache-Control"] = "no-store"
    return NewServiceAccountOut.with_secret(account, secret)


@router.get("", summary="List service accounts", responses=refusals())
async def list_service_accounts(
    caller: MembersWriter,
    service: ServiceAccountServiceDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[ServiceAccountOut]:
    """Return the tenant's service accounts, newest first."""
    page = await service.list(caller, cursor=cursor, limit=limit)
    return Page(
        data=[ServiceAccountOut.of(account) for account in page.accounts],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.post(
    "/{account_id}/rotate-secret",
    summary="Make a new secret",
    responses=refusals(errors.NotFound, errors.ScopeExceedsGrantor, *ONCE_REFUSALS),
)
async def rotate_secret(
    account_id: str, caller: MembersWriter, service: ServiceAccountServiceDep, response: Response, _once: Once
) -> NewServiceAccountOut:
    """Replace the secret. The old one and every token got with it are refused from the next request on."""
    account, secret = await service.rotate_secret(caller, account_id)
    response.headers["Cache-Control"] = "no-store"
    return NewServiceAccountOut.with_secret(account, secret)


@router.delete(
    "/{account_id}",
    status_code=204,
    summary="Delete a service account",
    response_class=Response,
    responses=refusals(errors.NotFound),
)
async def delete_service_account(account_id: str, caller: MembersWriter, service: ServiceAccountServiceDep) -> None:
    """Delete an account. Its tokens are refused from the next request on."""
    await service.delete(caller, account_id)
