"""``forecourt service-accounts``: programs above all tenants, such as the billing job."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from backend.adapters.crypto.cursors import HmacCursors
from backend.cli.console import JsonOption, opened, run, show
from backend.composition import Shared, open_key_hasher, secret_of
from backend.domain.audit import OPERATOR
from backend.domain.scopes import PlatformRole
from backend.domain.service_accounts import ServiceAccount
from backend.services.service_accounts import ServiceAccountService
from backend.settings import Settings

app = typer.Typer(help="Create, list, rotate and delete the platform's service accounts.", no_args_is_help=True)

COLUMNS = ("client_id", "name", "platform_role", "generation", "created_at")
ClientId = Annotated[str, typer.Argument(help="The client id, sa_…")]


def _row(account: ServiceAccount) -> dict[str, object]:
    return {
        "client_id": account.id,
        "name": account.name,
        "platform_role": account.platform_role,
        "generation": account.generation,
        "created_at": account.created_at.isoformat(timespec="seconds"),
    }


@asynccontextmanager
async def _service(settings: Settings, shared: Shared) -> AsyncIterator[ServiceAccountService]:
    async with shared.database.unit_of_work() as unit:
        yield ServiceAccountService(
            unit=unit,
            hasher=open_key_hasher(settings),
            cursors=HmacCursors(secret_of(settings)),
            clock=shared.clock,
        )


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the account is for.")],
    platform_role: Annotated[PlatformRole, typer.Option(help="What it may do.")] = PlatformRole.BILLING_READER,
    as_json: JsonOption = False,
) -> None:
    """Create an account and print its secret, this once."""

    async def work(settings: Settings) -> tuple[ServiceAccount, str]:
        async with opened(settings) as shared, _service(settings, shared) as service:
            return await service.create_of_platform(OPERATOR, name=name, role=platform_role)

    account, secret = run(work)
    show([_row(account) | {"client_secret": secret}], (*COLUMNS, "client_secret"), as_json=as_json)


@app.command("list")
def list_accounts(as_json: JsonOption = False) -> None:
    """List the platform's accounts, newest first."""

    async def work(settings: Settings) -> list[ServiceAccount]:
        async with opened(settings) as shared, _service(settings, shared) as service:
            return await service.list_of_platform()

    show([_row(account) for account in run(work)], COLUMNS, as_json=as_json)


@app.command("rotate-secret")
def rotate_secret(client_id: ClientId, as_json: JsonOption = False) -> None:
    """Replace an account's secret and print the new one, this once."""

    async def work(settings: Settings) -> tuple[ServiceAccount, str]:
        async with opened(settings) as shared, _service(settings, shared) as service:
            return await service.rotate_secret_of_platform(OPERATOR, client_id)

    account, secret = run(work)
    show([_row(account) | {"client_secret": secret}], (*COLUMNS, "client_secret"), as_json=as_json)


@app.command("delete")
def delete(client_id: ClientId, as_json: JsonOption = False) -> None:
    """Delete an account: its tokens are refused from the next request on."""

    async def work(settings: Settings) -> ServiceAccount:
        async with opened(settings) as shared, _service(settings, shared) as service:
            return await service.delete_of_platform(OPERATOR, client_id)

    show([_row(run(work))], COLUMNS, as_json=as_json)
