"""API keys over HTTP."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from backend.api.deps import ApiKeyServiceDep, ClockDep, KeysReader, KeysWriter
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.api_keys import ApiKeyChangeIn, ApiKeyIn, ApiKeyOut, NewApiKeyOut, RotatedApiKeyOut, RotationIn
from backend.api.schemas.common import Page
from backend.domain import errors
from backend.domain.api_keys import Environment, KeyStatus
from backend.services.ports.store import KeyFilter

router = APIRouter(prefix="/api-keys", tags=["api keys"], route_class=IdempotentRoute)


@router.post(
    "",
    status_code=201,
    summary="Create an API key",
    responses=refusals(errors.ScopeExceedsGrantor, errors.KeyLimitReached, *ONCE_REFUSALS),
)
async def create_api_key(
    body: ApiKeyIn, caller: KeysWriter, service: ApiKeyServiceDep, clock: ClockDep, response: Response, _once: Once
) -> NewApiKeyOut:
    """Make a key. Its secret stands in this answer and nowhere else."""
    key, secret = await service.create(caller, body.to_wish())
    response.headers["Location"] = f"/v1/api-keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewApiKeyOut.with_secret(key, secret, clock.now())


@router.get("", summary="List API keys", responses=refusals())
async def list_api_keys(
    caller: KeysReader,
    service: ApiKeyServiceDep,
    clock: ClockDep,
    status: KeyStatus | None = None,
    environment: Environment | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[ApiKeyOut]:
    """Return the tenant's keys, newest first."""
    page = await service.list(caller, KeyFilter(status=status, environment=environment), cursor=cursor, limit=limit)
    now = clock.now()
    return Page(
        data=[ApiKeyOut.of(key, now) for key in page.keys],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get("/{key_id}", summary="Read an API key", responses=refusals(errors.NotFound))
async def read_api_key(key_id: str, caller: KeysReader, service: ApiKeyServiceDep, clock: ClockDep) -> ApiKeyOut:
    """Return one key, never its secret."""
    return ApiKeyOut.of(await service.get(caller, key_id), clock.now())


@router.patch(
    "/{key_id}",
    summary="Change an API key",
    responses=refusals(errors.NotFound, errors.KeyNotChangeable, errors.ScopeExceedsGrantor, errors.BadRequest),
)
async def update_api_key(
    key_id: str, body: ApiKeyChangeIn, caller: KeysWriter, service: ApiKeyServiceDep, clock: ClockDep
) -> ApiKeyOut:
    """Change the fields that are sent, with effect on the next request everywhere; `null` lifts a restriction."""
    return ApiKeyOut.of(await service.update(caller, key_id, body.to_change()), clock.now())


@router.post(
    "/{key_id}/rotate",
    summary="Rotate an API key",
    responses=refusals(
        errors.NotFound, errors.KeyNotRotatable, errors.RotationInProgress, errors.ScopeExceedsGrantor, *ONCE_REFUSALS
    ),
)
async def rotate_api_key(
    key_id: str,
    body: RotationIn,
    caller: KeysWriter,
    service: ApiKeyServiceDep,
    clock: ClockDep,
    response: Response,
    _once: Once,
) -> RotatedApiKeyOut:
    """Give a key a new secret, which stands in this answer and nowhere else. Both verify during the overlap."""
    key, secret = await service.rotate(caller, key_id, timedelta(seconds=body.overlap_seconds))
    response.headers["Cache-Control"] = "no-store"
    return RotatedApiKeyOut.with_secret(key, secret, clock.now())


@router.post("/{key_id}/revoke", summary="Revoke an API key", responses=refusals(errors.NotFound))
async def revoke_api_key(key_id: str, caller: KeysWriter, service: ApiKeyServiceDep, clock: ClockDep) -> ApiKeyOut:
    """Revoke a key, with effect on the next request everywhere. Revoking it again changes nothing."""
    return ApiKeyOut.of(await service.revoke(caller, key_id), clock.now())
