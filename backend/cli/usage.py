"""``forecourt usage``: what a tenant used."""

from typing import Annotated

import typer

from backend.cli.console import JsonOption, opened, run, show
from backend.cli.usage_push import push
from backend.domain.clock import SystemClock
from backend.domain.errors import NotFound
from backend.domain.usage import Bucket, GroupBy, SummaryLine, SummaryQuery
from backend.settings import Settings

app = typer.Typer(help="Read usage, and tell an outside biller.", no_args_is_help=True)
app.command("push")(push)


@app.command("summary")
def summary(
    tenant: Annotated[str, typer.Argument(help="Slug of the tenant.")],
    bucket: Annotated[Bucket, typer.Option(help="Width of one line.")] = Bucket.MONTH,
    as_json: JsonOption = False,
) -> None:
    """Sum up this month's usage by model and environment."""

    async def work(settings: Settings) -> tuple[SummaryLine, ...]:
        async with opened(settings) as shared:
            async with shared.database.unit_of_work(read_only=True) as unit:
                found = await unit.tenants.by_slug(tenant)
            if found is None:
                raise NotFound("There is no tenant with this slug.")
            now = SystemClock().now()
            query = SummaryQuery(
                start=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
                end=now,
                bucket=bucket,
                group_by=(GroupBy.MODEL, GroupBy.ENVIRONMENT),
            )
            return await shared.usage_reader.summary(found.id, query)

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
