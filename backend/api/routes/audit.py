"""The audit log over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query

from backend.api.deps import AuditReader, AuditServiceDep, StoreDep
from backend.api.ndjson import NdjsonResponse
from backend.api.refusals import refusals
from backend.api.schemas.audit import AuditRecordOut, ChainOut
from backend.api.schemas.common import InstantIn, Page
from backend.domain.audit import Action, AuditFilter, AuditRecord
from backend.services.audit import export_chain

router = APIRouter(prefix="/audit-log", tags=["audit"])


@router.get("", summary="Read the audit log", responses=refusals())
async def list_records(
    caller: AuditReader,
    service: AuditServiceDep,
    action: Action | None = None,
    actor_id: Annotated[str | None, Query(max_length=64)] = None,
    target_id: Annotated[str | None, Query(max_length=64)] = None,
    start: Annotated[InstantIn | None, Query(alias="from")] = None,
    end: Annotated[InstantIn | None, Query(alias="to")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[AuditRecordOut]:
    """Return the tenant's records, newest first."""
    wanted = AuditFilter(action=action, actor_id=actor_id, target_id=target_id, start=start, end=end)
    page = await service.list(caller, wanted, cursor=cursor, limit=limit)
    return Page(
        data=[AuditRecordOut.of(record) for record in page.records],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get("/verify", summary="Verify the audit log", responses=refusals())
async def verify_chain(caller: AuditReader, service: AuditServiceDep) -> ChainOut:
    """Walk the whole chain and say where it breaks first, if it does."""
    return ChainOut.of(await service.verify(caller))


@router.get("/export", summary="Export the audit log", response_class=NdjsonResponse, responses=refusals())
async def export_records(caller: AuditReader, store: StoreDep) -> NdjsonResponse:
    """Return every record as NDJSON, oldest first."""
    return NdjsonResponse(_lines(export_chain(store, caller)))


async def _lines(records: AsyncIterator[AuditRecord]) -> AsyncIterator[str]:
    async for record in records:
        yield AuditRecordOut.of(record).model_dump_json() + "\n"
