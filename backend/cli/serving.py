"""``forecourt serve``, ``demo``, ``migrate`` and ``worker``."""

import asyncio
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, cast
from urllib.error import URLError

import typer
import uvicorn
from uvicorn.config import STARTUP_FAILURE, HTTPProtocolType
from uvicorn.supervisors import Multiprocess

from backend import demo as first_start
from backend.adapters.db.migrations import require_current, upgrade
from backend.adapters.memory.metrics import NullMetrics
from backend.cli.console import explained, fail, opened, run
from backend.composition import load_signing_keys, open_jobs, open_metrics, open_outbox, secret_of
from backend.composition.metering import open_metering
from backend.composition.outbound import open_outbound
from backend.logs import start_logging
from backend.settings import Settings
from backend.worker import JobRunner

HostOption = Annotated[str | None, typer.Option(help="Address to listen on. [FORECOURT_HOST]")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [FORECOURT_PORT]")]
WorkersOption = Annotated[int | None, typer.Option(help="Server processes; more than one needs Redis.")]


def serve(host: HostOption = None, port: PortOption = None, workers: WorkersOption = None) -> None:
    """Serve the API on a migrated database."""
    _export(host, port, workers)
    with explained():
        settings = Settings()
        secret_of(settings)
        require_current(settings.database_url)
        asyncio.run(_require_own_keys(settings))
        _serve(settings, _listen(settings.host, settings.port), None)


def demo(
    host: HostOption = None,
    port: PortOption = None,
    workers: WorkersOption = None,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its state.")] = Path("var"),
    serving: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve once everything is set up.")] = True,
) -> None:
    """Set up two demo tenants and four models, then serve them."""
    _export(host, port, workers)
    folder = folder.resolve()
    with explained():
        listener = _listen(os.environ.get("FORECOURT_HOST", "127.0.0.1"), _port_from_environment()) if serving else None
        base_url = _base_url(listener)
        with first_start.one_at_a_time(folder):
            first_start.prepare_environment(folder, base_url)
            settings = Settings()
            content = first_start.set_up(settings, folder, base_url, _say)
        if listener is None:
            _say(f"ready to serve; credentials are in {folder / first_start.DEMO_FILE}")
            return
        _say("starting the server")
        _serve(settings, listener, lambda: _welcome(content, folder / first_start.DEMO_FILE))


def migrate() -> None:
    """Bring the database to the revision that this version needs."""
    with explained():
        before, after = upgrade(Settings().migration_url)
    typer.echo(f"at revision {after} already" if before == after else f"migrated to revision {after}")


def work(
    once: Annotated[bool, typer.Option("--once", help="Run every job once and end: for cron.")] = False,
) -> None:
    """Run the periodic jobs until told to stop; any number of copies may run."""

    async def work_on(settings: Settings) -> tuple[str, ...]:
        listener = start_logging(style=settings.log_format, level=settings.log_level)
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        try:
            async with opened(settings) as shared, AsyncExitStack() as stack:
                metrics = NullMetrics() if once else open_metrics(settings, stack)
                metering = open_metering(settings, stack, shared.clock, metrics, shared.turns)
                outbound, outbox = open_outbound(settings, stack), open_outbox(settings, stack, shared.clock)
                jobs = open_jobs(settings, shared, metering, outbound, outbox, metrics, stack)
                runner = JobRunner(jobs, metrics=metrics)
                if once:
                    return await runner.run_once()
                runner.start()
                await stopping.wait()
                await runner.aclose()
                return ()
        finally:
            listener.stop()

    failed = run(work_on)
    if failed:
        fail(f"failed: {', '.join(failed)}")


async def _require_own_keys(settings: Settings) -> None:
    """Say it in one line when the secret is not the database's, before any server process finds out."""
    async with opened(settings) as shared:
        await load_signing_keys(shared.database, secret_of(settings), shared.clock)


def _export(host: str | None, port: int | None, workers: int | None) -> None:
    """Let the command's options win over the environment, for this process and those it starts."""
    for name, value in (("HOST", host), ("PORT", port), ("WORKERS", workers)):
        if value is not None:
            os.environ[f"FORECOURT_{name}"] = str(value)


def _port_from_environment() -> int:
    text = os.environ.get("FORECOURT_PORT", "8000")
    if not text.isdigit():
        fail("FORECOURT_PORT: must be a number")
    return int(text)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on nobody else can take the port while the models are being trained.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        fail(f"cannot listen on {host}:{port}: {error.strerror}")
    listener.set_inheritable(True)
    return listener


def _base_url(listener: socket.socket | None) -> str:
    if listener is None:
        return f"http://127.0.0.1:{_port_from_environment()}"
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _serve(settings: Settings, listener: socket.socket, on_ready: Callable[[], None] | None) -> None:
    # Every process that is started from here reads these same settings again.
    os.environ.setdefault("FORECOURT_PUBLIC_URL", settings.public_url)
    config = uvicorn.Config(
        "backend.main:app_from_environment",
        factory=True,
        # Named, not imported: other commands need none of what it imports.
        http=cast("HTTPProtocolType", "backend.cli.prediction_protocol:PredictionProtocol"),
        workers=settings.workers,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    if on_ready is not None:
        threading.Thread(target=_announce, args=(_base_url(listener), on_ready), daemon=True).start()
    if settings.workers > 1:
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise typer.Exit(STARTUP_FAILURE)
        return
    # After an orderly end uvicorn raises the signal again, for whoever handled it before: dying of it would look like
    # a failure, and the last lines of the log would be lost.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(STARTUP_FAILURE)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _announce(base_url: str, on_ready: Callable[[], None]) -> None:
    """Wait until the server answers, then tell."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{base_url}/livez", timeout=2):  # noqa: S310
                on_ready()
                return
        except (URLError, OSError):
            time.sleep(0.05)


def _say(text: str) -> None:
    typer.secho(f"forecourt: {text}", fg=typer.colors.CYAN)


def _welcome(content: dict[str, Any], path: Path) -> None:
    base_url = content["base_url"]
    acme = content["tenants"][0]
    key = acme["api_key"]
    lines = (
        "",
        f"  Forecourt is ready at   {base_url}",
        f"  Documentation           {base_url}/docs",
        f"  Credentials             {path}",
        "",
        "  A prediction:",
        f"  curl -s {base_url}/v1/predict -H 'Authorization: Bearer {key}' \\",
        '    -H \'Content-Type: application/json\' -d \'{"model": "iris", "inputs": [[5.1, 3.5, 1.4, 0.2]]}\'',
        "",
        "  What it used:",
        f"  curl -s '{base_url}/v1/usage/summary?bucket=day&group_by=model' -H 'Authorization: Bearer {key}'",
        "",
        "  Stop with Ctrl+C.",
        "",
    )
    typer.echo("\n".join(lines))
