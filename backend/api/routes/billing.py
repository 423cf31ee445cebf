"""Periods, statements, exports and adjustments over HTTP."""

import hashlib
from base64 import b64encode
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from backend.api.byte_ranges import asked_range
from backend.api.deps import (
    Adjuster,
    AdjustmentServiceDep,
    Closer,
    EventsReaderCaller,
    ExporterCaller,
    ExportServiceDep,
    PeriodServiceDep,
)
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.ndjson import NDJSON
from backend.api.refusals import refusals
from backend.api.schemas.billing import (
    PERIOD,
    AdjustmentIn,
    AdjustmentOut,
    CloseIn,
    CloseOut,
    PeriodOut,
    ReconciliationOut,
    StatementOut,
)
from backend.api.schemas.common import Page
from backend.domain import errors
from backend.domain.billing_periods import ExportFormat, PeriodState

router = APIRouter(prefix="/usage", tags=["billing"], route_class=IdempotentRoute)

PeriodPath = Annotated[str, Path(pattern=PERIOD, examples=["2026-10"])]
PeriodQuery = Annotated[str, Query(pattern=PERIOD, examples=["2026-10"])]
TenantQuery = Annotated[
    str | None, Query(max_length=64, description="For the platform: whose books. Others see theirs.")
]
IfNoneMatch = Annotated[str | None, Header(max_length=1000)]
MEDIA = {ExportFormat.NDJSON: NDJSON, ExportFormat.CSV: "text/csv; charset=utf-8"}
FILE: dict[str, Any] = {NDJSON: {"schema": {"type": "string"}}, "text/csv": {"schema": {"type": "string"}}}
EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole export.", "content": FILE},
    206: {"description": "The bytes asked for with `Range`.", "content": FILE},
}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "What the `If-None-Match` names is still right."}}


@router.get("/periods", summary="List billing periods", responses=refusals(errors.NotFound, errors.Conflict))
async def list_periods(
    caller: EventsReaderCaller,
    service: PeriodServiceDep,
    tenant_id: TenantQuery = None,
    period: Annotated[str | None, Query(pattern=PERIOD)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[PeriodOut]:
    """Return a tenant's months, newest first; to the platform, of every tenant, the last month that is over."""
    page = await service.list(caller, tenant_id=tenant_id, period=period, cursor=cursor, limit=limit)
    return Page(
        data=[PeriodOut.of(view) for view in page.periods],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get(
    "/periods/{period}",
    summary="Read a billing period",
    response_model=PeriodOut,
    responses=refusals(errors.NotFound, errors.Conflict) | UNCHANGED,
)
async def read_period(
    period: PeriodPath,
    caller: EventsReaderCaller,
    service: PeriodServiceDep,
    tenant_id: TenantQuery = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return a month's state and control totals. Once it is closed they never change, and have a strong ETag."""
    view = await service.get(caller, period, tenant_id=tenant_id)
    return _document(PeriodOut.of(view), if_none_match, is_final=view.state is PeriodState.CLOSED)


@router.get(
    "/periods/{period}/reconciliation",
    summary="Compare the ledger with the quota",
    responses=refusals(errors.NotFound, errors.EnforcementUnavailable),
)
async def read_reconciliation(
    period: PeriodPath, caller: EventsReaderCaller, service: PeriodServiceDep, tenant_id: TenantQuery = None
) -> ReconciliationOut:
    """Return the ledger's units of a month beside those settled on the quota. A difference blocks the close."""
    whose, found = await service.reconciliation(caller, period, tenant_id=tenant_id)
    return ReconciliationOut.of(whose, period, found)


@router.post(
    "/periods/{period}/close",
    status_code=202,
    summary="Close a billing period",
    responses=refusals(
        errors.NotFound, errors.WatermarkBehind, errors.ReconciliationMismatch, errors.EnforcementUnavailable
    ),
)
async def close_period(
    period: PeriodPath, caller: Closer, service: PeriodServiceDep, body: CloseIn | None = None
) -> CloseOut:
    """Close a month for every tenant, or for one. Closing again changes nothing.

    Each tenant is closed by itself: a refusal names those that are not, and the others are.
    """
    asked = body or CloseIn()
    report = await service.close(caller, period, tenant_id=asked.tenant_id, accepted=asked.accept_difference)
    return CloseOut.of(report)


@router.get(
    "/statement",
    summary="Read a statement",
    response_model=StatementOut,
    responses=refusals(errors.NotFound, errors.Conflict) | UNCHANGED,
)
async def read_statement(
    period: PeriodQuery,
    caller: EventsReaderCaller,
    service: PeriodServiceDep,
    tenant_id: TenantQuery = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return what a month comes to, line by line; of an open month, so far."""
    statement = await service.statement(caller, period, tenant_id=tenant_id)
    is_final = statement.view.state is PeriodState.CLOSED
    return _document(StatementOut.of(statement), if_none_match, is_final=is_final)


@router.get(
    "/export",
    summary="Export a closed period",
    response_class=StreamingResponse,
    responses=refusals(errors.NotFound, errors.PeriodOpen, errors.UsageExpired, errors.RangeNotSatisfiable)
    | EXPORTED
    | UNCHANGED,
)
async def export_period(
    request: Request,
    period: PeriodQuery,
    caller: ExporterCaller,
    service: ExportServiceDep,
    format: ExportFormat = ExportFormat.NDJSON,  # noqa: A002
    tenant_id: TenantQuery = None,
) -> Response:
    """Write a closed month out: a record for each event and adjustment, then the control totals.

    The same bytes every time. `Range` and `If-Range` go on where a transfer broke off.
    """
    export = await service.open(caller, period, format, tenant_id=tenant_id)
    size, digest = export.file.size_bytes, b64encode(export.file.sha256).decode()
    etag = f'"{export.file.sha256.hex()}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Digest": f"sha-256={digest}",
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'attachment; filename="usage-{period}.{format.value}"',
    }
    if _is_known(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    wanted = asked_range(request.headers.get("range"), request.headers.get("if-range"), etag, size)
    start, end = wanted or (0, size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(
        service.write(export, start, end),
        status_code=206 if wanted else 200,
        headers=headers,
        media_type=MEDIA[format],
    )


@router.post(
    "/adjustments",
    status_code=201,
    summary="Correct the books",
    responses=refusals(errors.NotFound, *ONCE_REFUSALS),
)
async def create_adjustment(
    body: AdjustmentIn, caller: Adjuster, service: AdjustmentServiceDep, _once: Once
) -> AdjustmentOut:
    """Book a correction in the open month: a new signed row that names what it corrects, who and why."""
    return AdjustmentOut.of(await service.create(caller, body.to_correction()))


@router.get("/adjustments", summary="List adjustments", responses=refusals())
async def list_adjustments(
    caller: EventsReaderCaller,
    service: AdjustmentServiceDep,
    period: Annotated[str | None, Query(pattern=PERIOD, description="The month that they are booked in.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[AdjustmentOut]:
    """Return adjustments in commit order: corrections, and events that came after their month was closed."""
    page = await service.list(caller, period=period, cursor=cursor, limit=limit)
    return Page(
        data=[AdjustmentOut.of(each.adjustment) for each in page.adjustments],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


def _document(content: BaseModel, if_none_match: str | None, *, is_final: bool) -> Response:
    """Return a JSON answer; one that never changes with its digest, and not twice to who has it."""
    body = content.model_dump_json().encode()
    if not is_final:
        return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
    digest = hashlib.sha256(body).digest()
    headers = {
        "ETag": f'"{digest.hex()}"',
        "Digest": f"sha-256={b64encode(digest).decode()}",
        "Cache-Control": "private, no-cache",
    }
    if _is_known(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _is_known(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    known = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in known or etag in known
