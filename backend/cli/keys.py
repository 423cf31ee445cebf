"""``forecourt keys``: API keys, as the operator handles them for a tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated

import typer

from backend.adapters.crypto.cursors import HmacCursors
from backend.cli.console import JsonOption, fail, opened, run, show
from backend.composition import Shared, open_key_hasher, secret_of
from backend.domain.api_keys import ApiKey, Environment
from backend.domain.callers import ActorKind, Caller
from backend.domain.clock import SystemClock
from backend.domain.errors import NotFound
from backend.domain.scopes import TENANT_SCOPES, parse_scopes
from backend.services.api_keys import ApiKeyService, KeyWish
from backend.services.ports.store import KeyFilter
from backend.settings import Settings

app = typer.Typer(help="Create, list, rotate and revoke API keys of a tenant.", no_args_is_help=True)

COLUMNS = ("id", "name", "prefix", "last4", "environment", "status", "scopes")
TenantSlug = Annotated[str, typer.Argument(help="Slug of the tenant.")]


def _row(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "last4": key.last4,
        "environment": key.environment.value,
        "status": key.status_at(SystemClock().now()).value,
        "scopes": " ".join(sorted(key.scopes)),
    }


@asynccontextmanager
async def _service(settings: Settings, shared: Shared, slug: str) -> AsyncIterator[tuple[ApiKeyService, Caller]]:
    async with shared.database.unit_of_work() as unit:
        tenant = await unit.tenants.by_slug(slug)
        if tenant is None:
            raise NotFound("There is no tenant with this slug.")
        # The operator acts with all that the tenant's own owner holds, and stands as the creator.
        caller = Caller(kind=ActorKind.USER, credential_id="operator", tenant_id=tenant.id, scopes=TENANT_SCOPES)
        service = ApiKeyService(
            unit=unit,
            hasher=open_key_hasher(settings),
            admission=shared.admission,
            cursors=HmacCursors(secret_of(settings)),
            clock=shared.clock,
        )
        yield service, caller


@app.command("create")
def create(
    tenant: TenantSlug,
    name: Annotated[str, typer.Option(help="What the key is for.")],
    environment: Annotated[Environment, typer.Option(help="Test keys are never billed.")] = Environment.LIVE,
    scopes: Annotated[str, typer.Option(help="Scopes, separated by spaces.")] = "predict models:read",
    as_json: JsonOption = False,
) -> None:
    """Create a key and print its secret, this once."""
    wanted = parse_scopes(scopes)
    if wanted is None:
        fail("--scopes names a scope that does not exist")

    async def work(settings: Settings) -> tuple[ApiKey, str]:
        async with opened(settings) as shared, _service(settings, shared, tenant) as (service, caller):
            return await service.create(caller, KeyWish(name=name, environment=environment, scopes=wanted))

    key, secret = run(work)
    show([_row(key) | {"secret": secret}], (*COLUMNS, "secret"), as_json=as_json)


@app.command("list")
def list_keys(tenant: TenantSlug, as_json: JsonOption = False) -> None:
    """List a tenant's keys, newest first."""

    async def work(settings: Settings) -> list[ApiKey]:
        keys: list[ApiKey] = []
        cursor: str | None = None
        async with opened(settings) as shared, _service(settings, shared, tenant) as (service, caller):
            while True:
                page = await service.list(caller, KeyFilter(), cursor=cursor, limit=100)
                keys.extend(page.keys)
                cursor = page.next_cursor
                if cursor is None:
                    return keys

    show([_row(key) for key in run(work)], COLUMNS, as_json=as_json)


@app.command("rotate")
def rotate(
    tenant: TenantSlug,
    key_id: Annotated[str, typer.Argument(help="The key's id, key_…")],
    overlap: Annotated[int, typer.Option(min=0, max=604_800, help="Seconds that the old secret goes on.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and print it, this once."""

    async def work(settings: Settings) -> tuple[ApiKey, str]:
        async with opened(settings) as shared, _service(settings, shared, tenant) as (service, caller):
            return await service.rotate(caller, key_id, timedelta(seconds=overlap))

    key, secret = run(work)
    show([_row(key) | {"secret": secret}], (*COLUMNS, "secret"), as_json=as_json)


@app.command("revoke")
def revoke(
    tenant: TenantSlug, key_id: Annotated[str, typer.Argument(help="The key's id, key_…")], as_json: JsonOption = False
) -> None:
    """Revoke a key, with effect on the next request everywhere."""

    async def work(settings: Settings) -> ApiKey:
        async with opened(settings) as shared, _service(settings, shared, tenant) as (service, caller):
            return await service.revoke(caller, key_id)

    show([_row(run(work))], COLUMNS, as_json=as_json)
