"""The services over billing periods, exports and adjustments."""

from typing import Annotated

from fastapi import Depends, Request

from backend.api.deps.providers import (
    UnitDep,
    get_admission,
    get_clock,
    get_cursor_codec,
    get_resources,
    get_store,
    get_usage_reader,
    get_waiting_usage,
    provided,
)
from backend.services.adjustments import AdjustmentService
from backend.services.closing import PeriodCloser
from backend.services.exports import ExportService
from backend.services.periods import PeriodService


async def get_period_service(request: Request) -> PeriodService:
    """Return the service over billing periods."""
    store, reader = provided(request, get_store), provided(request, get_usage_reader)
    clock = provided(request, get_clock)
    closer = PeriodCloser(
        store=store,
        reader=reader,
        waiting=provided(request, get_waiting_usage),
        admission=provided(request, get_admission),
        clock=clock,
        grace_s=get_resources(request).settings.period_grace_s,
    )
    return PeriodService(
        store=store, reader=reader, closer=closer, cursors=provided(request, get_cursor_codec), clock=clock
    )


async def get_export_service(request: Request) -> ExportService:
    """Return the service that writes closed periods out."""
    return ExportService(store=provided(request, get_store), reader=provided(request, get_usage_reader))


async def get_adjustment_service(request: Request, unit: UnitDep) -> AdjustmentService:
    """Return the service over adjustments in the request's unit of work."""
    return AdjustmentService(
        unit=unit,
        reader=provided(request, get_usage_reader),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


AdjustmentServiceDep = Annotated[AdjustmentService, Depends(get_adjustment_service)]
ExportServiceDep = Annotated[ExportService, Depends(get_export_service)]
PeriodServiceDep = Annotated[PeriodService, Depends(get_period_service)]
