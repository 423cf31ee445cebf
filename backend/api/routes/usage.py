"""Usage over HTTP."""

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime

from backend.api.deps import EventsReaderCaller, UsageReaderCaller, UsageServiceDep
from backend.api.ndjson import ALSO_NDJSON, NDJSON
from backend.api.refusals import refusals
from backend.api.schemas.billing import PERIOD
from backend.api.schemas.common import Page
from backend.api.schemas.usage import SummaryOut, UsageEventOut
from backend.domain import errors
from backend.domain.errors import FieldError, Invalid
from backend.domain.usage import Bucket, EventFilter, GroupBy

router = APIRouter(prefix="/usage", tags=["usage"])


class EventFormat(StrEnum):
    """How events are written."""

    JSON = "json"
    NDJSON = "ndjson"


@router.get(
    "/events",
    summary="Read usage events",
    response_model=Page[UsageEventOut],
    responses=refusals(errors.UsageExpired) | ALSO_NDJSON,
)
async def list_events(
    caller: EventsReaderCaller,
    service: UsageServiceDep,
    period: Annotated[str | None, Query(pattern=PERIOD, examples=["2026-11"])] = None,
    key_id: Annotated[str | None, Query(max_length=64)] = None,
    model: Annotated[str | None, Query(max_length=130)] = None,
    format: EventFormat = EventFormat.JSON,  # noqa: A002
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """Return events in commit order, up to the watermark below which nothing can still appear."""
    wanted = EventFilter(period=period, credential_id=key_id, model=model)
    answer = await service.events(caller, wanted, cursor=cursor, limit=limit)
    events = [UsageEventOut.of(stored) for stored in answer.page.events]
    headers = {"X-Usage-Watermark": str(answer.page.watermark)}
    if format is EventFormat.NDJSON:
        if answer.next_cursor:
            headers["X-Next-Cursor"] = answer.next_cursor
        lines = "".join(event.model_dump_json() + "\n" for event in events)
        return Response(lines, headers=headers, media_type=NDJSON)
    page = Page[UsageEventOut](data=events, has_more=answer.page.has_more, next_cursor=answer.next_cursor)
    return Response(page.model_dump_json(), headers=headers, media_type="application/json")


@router.get("/summary", summary="Sum usage up", responses=refusals(errors.UsageExpired))
async def read_summary(
    caller: UsageReaderCaller,
    service: UsageServiceDep,
    start: Annotated[AwareDatetime | None, Query(alias="from", examples=["2026-11-01T00:00:00Z"])] = None,
    end: Annotated[AwareDatetime | None, Query(alias="to")] = None,
    bucket: Bucket = Bucket.DAY,
    group_by: Annotated[str, Query(max_length=100, description="Of `model`, `key`, `environment`; with commas.")] = "",
) -> SummaryOut:
    """Return exact totals by bucket, from the first of this month to the end of this hour unless said otherwise."""
    query, lines = await service.summary(caller, start=start, end=end, bucket=bucket, group_by=_groups(group_by))
    return SummaryOut.of(query, lines)


def _groups(text: str) -> tuple[GroupBy, ...]:
    try:
        return tuple(GroupBy(word) for word in text.split(",") if word)
    except ValueError:
        problem = FieldError("/query/group_by", "may name model, key and environment, separated by commas")
        raise Invalid(errors=(problem,)) from None
