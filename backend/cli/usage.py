"""``forecourt usage``: what tenants used, and the month's close for cron.

Exit codes: 0 done, 1 refused or wrong, 75 too early: try again later (``EX_TEMPFAIL`` of sysexits.h).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from backend.cli.console import JsonOption, fail, opened, run, show
from backend.cli.usage_push import push
from backend.composition import Shared, open_closer
from backend.domain.audit import OPERATOR
from backend.domain.billing_periods import ExportFormat, is_period
from backend.domain.clock import SystemClock
from backend.domain.errors import NotFound, WatermarkBehind
from backend.domain.ids import TenantId
from backend.domain.usage import Bucket, GroupBy, SummaryLine, SummaryQuery
from backend.services.billing import OpenBooks, Statement
from backend.services.closing import CloseReport, PeriodCloser
from backend.services.exports import ExportService
from backend.settings import Settings

app = typer.Typer(help="Read usage, close months, and tell an outside biller.", no_args_is_help=True)
app.command("push")(push)
TOO_EARLY = 75


def _month(text: str) -> str:
    if not is_period(text):
        raise typer.BadParameter("must be a month, such as 2026-01")
    return text


PeriodArgument = Annotated[str, typer.Argument(help="The month, YYYY-MM.", callback=_month)]
TenantArgument = Annotated[str, typer.Argument(help="Slug of the tenant.")]
TenantOption = Annotated[str | None, typer.Option(help="Slug of the one tenant; by default all of them.")]


@app.command("summary")
def summary(
    tenant: TenantArgument,
    bucket: Annotated[Bucket, typer.Option(help="Width of one line.")] = Bucket.MONTH,
    as_json: JsonOption = False,
) -> None:
    """Sum up this month's usage by model and environment."""

    async def work(settings: Settings) -> tuple[SummaryLine, ...]:
        async with opened(settings) as shared:
            now = SystemClock().now()
            query = SummaryQuery(
                start=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
                end=now,
                bucket=bucket,
                group_by=(GroupBy.MODEL, GroupBy.ENVIRONMENT),
            )
            return await shared.usage_reader.summary(await _tenant_of(shared, tenant), query)

    rows = [
        {
            "start": line.start.isoformat(timespec="minutes"),
            **{by.value: name for by, name in line.group},
            "events": line.events,
            "units": line.units,
            "cached_units": line.cached_units,
            "billable_units": line.billable_units,
        }
        for line in run(work)
    ]
    columns = ("start", "model", "environment", "events", "units", "cached_units", "billable_units")
    show(rows, columns, as_json=as_json)


@app.command("close")
def close(
    period: PeriodArgument,
    tenant: TenantOption = None,
    accept_difference: Annotated[
        str | None, typer.Option(help="Why a difference between ledger and quota does not matter. Recorded.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Close a month for every tenant, or for one. Closing again changes nothing."""

    async def work(settings: Settings) -> CloseReport | WatermarkBehind:
        async with _closer(settings) as (shared, closer):
            only = await _tenant_of(shared, tenant) if tenant else None
            try:
                return await closer.close(OPERATOR, period, only=only, accepted=accept_difference)
            except WatermarkBehind as error:
                return error

    report = run(work)
    if isinstance(report, WatermarkBehind):
        _too_early(report)
    rows: list[dict[str, object]] = [
        {"period": period, "state": report.state.value, "closed": report.closed, "failed": len(report.failures)}
    ]
    show(rows, ("period", "state", "closed", "failed"), as_json=as_json)
    for tenant_id, error in report.failures.items():
        details = "; ".join(each.detail for each in error.errors) or error.detail
        typer.secho(f"forecourt: {tenant_id}: {error.code}: {details}", fg=typer.colors.RED, err=True)
    failures = list(report.failures.values())
    if failures and all(isinstance(error, WatermarkBehind) for error in failures):
        raise typer.Exit(TOO_EARLY)
    if failures:
        raise typer.Exit(1)


@app.command("reconcile")
def reconcile(period: PeriodArgument, tenant: TenantOption = None, as_json: JsonOption = False) -> None:
    """Compare the ledger with the settled quota; exit 1 where they differ."""

    async def work(settings: Settings) -> list[dict[str, object]]:
        async with _closer(settings) as (shared, closer):
            async with shared.database.unit_of_work(read_only=True) as unit:
                tenants = await unit.tenants.list_all()
            return [
                {
                    "tenant": each.slug,
                    "environment": found.environment.value,
                    "ledger_units": found.ledger_units,
                    "settled_units": found.settled_units,
                    "agrees": found.agrees,
                }
                for each in tenants
                if tenant in {None, each.slug}
                for found in await closer.compare(each.id, period)
            ]

    rows = run(work)
    if tenant is not None and not rows:
        fail("There is no tenant with this slug.")
    show(rows, ("tenant", "environment", "ledger_units", "settled_units", "agrees"), as_json=as_json)
    if not all(row["agrees"] for row in rows):
        raise typer.Exit(1)


@app.command("statement")
def statement(tenant: TenantArgument, period: PeriodArgument, as_json: JsonOption = False) -> None:
    """Show what a tenant owes for a month, line by line, in micros; of an open month, so far."""

    async def work(settings: Settings) -> Statement:
        async with opened(settings) as shared:
            books = OpenBooks(store=shared.database, reader=shared.usage_reader, clock=shared.clock)
            return await books.statement(await _tenant_of(shared, tenant), period)

    rows = [{**asdict(line), "kind": line.kind.value} for line in run(work).lines]
    columns = ("kind", "plan", "plan_version", "units", "included_units", "currency", "amount_micros")
    show(rows, columns, as_json=as_json)


@app.command("export")
def export(
    tenant: TenantArgument,
    period: PeriodArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; it is replaced once it is whole.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="How it is written.")] = ExportFormat.NDJSON,
) -> None:
    """Write a closed month of a tenant to a file: the same bytes every time."""

    async def work(settings: Settings) -> str:
        async with opened(settings) as shared:
            service = ExportService(store=shared.database, reader=shared.usage_reader)
            found = await service.open_of(await _tenant_of(shared, tenant), period, form)
            partial = output.with_name(f"{output.name}.part")
            with partial.open("wb") as file:
                async for chunk in service.write(found, 0, found.file.size_bytes):
                    file.write(chunk)
            partial.replace(output)
            return found.file.sha256.hex()

    try:
        digest = run(work)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}")
    typer.echo(f"{digest}  {output}")


@asynccontextmanager
async def _closer(settings: Settings) -> AsyncIterator[tuple[Shared, PeriodCloser]]:
    async with opened(settings) as shared:
        yield shared, open_closer(settings, shared)


async def _tenant_of(shared: Shared, slug: str) -> TenantId:
    async with shared.database.unit_of_work(read_only=True) as unit:
        found = await unit.tenants.by_slug(slug)
    if found is None:
        raise NotFound("There is no tenant with this slug.")
    return found.id


def _too_early(error: WatermarkBehind) -> NoReturn:
    typer.secho(f"forecourt: {error.detail}", fg=typer.colors.RED, err=True)
    raise typer.Exit(TOO_EARLY)
