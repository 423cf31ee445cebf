"""How commands talk: tables for people, ``--json`` for programs, one line and a failing exit for what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Annotated, Any, NoReturn, TypeVar

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from backend.adapters.crypto.passwords import Argon2Passwords
from backend.adapters.db.engine import UnsupportedDatabase
from backend.adapters.db.migrations import DatabaseUnusable, require_current
from backend.adapters.db.unit_of_work import SqlUnitOfWork
from backend.composition import Shared, open_shared
from backend.composition.misconfigured import MisconfiguredError
from backend.domain.clock import SystemClock
from backend.domain.errors import ForecourtError
from backend.services.tenants import TenantService
from backend.settings import Settings

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def fail(message: str) -> NoReturn:
    """Print one line to standard error and leave with status 1."""
    typer.secho(f"forecourt: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what can go wrong for an operator into one line."""
    try:
        yield
    except ValidationError as error:
        fail("; ".join(_setting_problem(problem) for problem in error.errors(include_url=False)))
    except ForecourtError as error:
        places = "; ".join(f"{each.pointer.lstrip('/')}: {each.detail}" for each in error.errors)
        fail(f"{error.detail} {places}".strip())
    except (DatabaseUnusable, UnsupportedDatabase, MisconfiguredError) as error:
        fail(str(error))


def _setting_problem(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message if not problem["loc"] else f"FORECOURT_{str(problem['loc'][0]).upper()}: {message}"


def run(work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Run a command's work on the environment's settings."""
    with explained():
        return asyncio.run(work(Settings()))


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Shared]:
    """Open the store and admission for one command.

    Raises:
        DatabaseUnusable: the database is not at the revision that this version needs.
    """
    require_current(settings.database_url)
    async with AsyncExitStack() as stack:
        yield await open_shared(settings, stack, SystemClock())


@asynccontextmanager
async def tenant_service(
    shared: Shared, *, read_only: bool = False
) -> AsyncIterator[tuple[TenantService, SqlUnitOfWork]]:
    """Open a unit of work and the tenant service in it."""
    passwords = Argon2Passwords()
    try:
        async with shared.database.unit_of_work(read_only=read_only) as unit:
            yield (
                TenantService(unit=unit, passwords=passwords, admission=shared.admission, clock=shared.clock),
                unit,
            )
    finally:
        passwords.close()


def show(rows: Sequence[dict[str, object]], columns: Sequence[str], *, as_json: bool, title: str = "") -> None:
    """Print rows as a table, or as a JSON list."""
    if as_json:
        typer.echo(orjson.dumps(list(rows), default=str, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in columns))
    # Wide enough that ids are never cut: they are there to be copied.
    Console(width=None if Console().is_terminal else 200).print(table)
