"""``forecourt usage push``: tells an outside biller what tenants used."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from backend.adapters.memory.metrics import NullMetrics
from backend.cli.console import explained, fail, opened
from backend.composition.biller import open_usage_pushes
from backend.logs import start_logging
from backend.services.usage_pushes import PushReport
from backend.settings import Settings
from backend.worker import JobRunner, usage_push


def push(
    once: Annotated[
        bool, typer.Option("--once", help="Send what is due and leave; failing if any was refused.")
    ] = False,
) -> None:
    """Keep an outside biller's totals equal to the ledger's (FORECOURT_BILLER_URL)."""
    with explained():
        report = asyncio.run(_push(Settings(), once=once))
    if report is not None:
        typer.echo(f"readings taken: {report.taken}, not taken: {report.failed}")
        if report.failed:
            raise typer.Exit(1)


async def _push(settings: Settings, *, once: bool) -> PushReport | None:
    async with opened(settings) as shared, AsyncExitStack() as stack:
        service = open_usage_pushes(settings, shared.database, shared.clock, stack)
        if service is None:
            fail("FORECOURT_BILLER_KIND is not set: there is no biller to push to")
        if once:
            return await service.push()
        listener = start_logging(style=settings.log_format, level=settings.log_level)
        stack.callback(listener.stop)
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        runner = JobRunner((usage_push(service),), metrics=NullMetrics())
        runner.start()
        await stopping.wait()
        await runner.aclose()
        return None
