"""Health over HTTP."""

import asyncio
from itertools import chain

from fastapi import APIRouter, Response

from backend import __version__
from backend.api.deps import HealthProbesDep
from backend.api.refusals import refusals
from backend.api.schemas.health import LiveOut, ReadyOut

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive", responses=refusals(public=True))
async def read_live() -> LiveOut:
    """Answer as long as the event loop turns; asks nothing else."""
    return LiveOut()


@router.get("/readyz", summary="Can it serve", responses=refusals(public=True))
async def read_ready(probes: HealthProbesDep, response: Response) -> ReadyOut:
    """Ask each resource; 503 when one is down that nothing can be served without."""
    answers = await asyncio.gather(*(probe.check() for probe in probes))
    ready = ReadyOut.of(tuple(chain.from_iterable(answers)), __version__)
    response.headers["Cache-Control"] = "no-store"
    if ready.status != "ready":
        response.status_code = 503
    return ready
