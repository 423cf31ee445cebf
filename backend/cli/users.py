"""``forecourt users``: people."""

from typing import Annotated

import typer

from backend.cli.console import JsonOption, fail, opened, run, show, tenant_service
from backend.domain.scopes import PlatformRole, Role
from backend.domain.tenants import User
from backend.settings import Settings

app = typer.Typer(help="Create, list, disable and enable users, and seat them in tenants.", no_args_is_help=True)

Email = Annotated[str, typer.Argument(help="The address that the user signs in with.")]
COLUMNS = ("id", "email", "platform_role", "disabled", "created_at")


def _row(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "email": user.email,
        "platform_role": user.platform_role,
        "disabled": user.disabled,
        "created_at": user.created_at.isoformat(timespec="seconds"),
    }


@app.command("create")
def create(
    email: Annotated[str, typer.Argument(help="The address to sign in with.")],
    tenant: Annotated[str | None, typer.Option(help="Slug of the tenant to seat the user in.")] = None,
    role: Annotated[Role, typer.Option(help="Role of that seat.")] = Role.DEVELOPER,
    platform_role: Annotated[PlatformRole | None, typer.Option(help="A seat above all tenants.")] = None,
    password: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, confirmation_prompt=True, help="Asked for when not given."),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Create a user; with --tenant, seated in that tenant."""
    if tenant is None and platform_role is None:
        fail("give --tenant or --platform-role: a user without a seat cannot sign in")

    async def work(settings: Settings) -> User:
        async with opened(settings) as shared, tenant_service(shared) as (tenants, _):
            user = await tenants.add_user(email=email, password=password, platform_role=platform_role)
            if tenant is not None:
                await tenants.seat((await tenants.by_slug(tenant)).id, user.id, role)
            return user

    show([_row(run(work))], COLUMNS, as_json=as_json)


@app.command("list")
def list_users(as_json: JsonOption = False) -> None:
    """List every user."""

    async def work(settings: Settings) -> list[User]:
        async with opened(settings) as shared, tenant_service(shared, read_only=True) as (_, unit):
            return await unit.users.list_all()

    show([_row(user) for user in run(work)], COLUMNS, as_json=as_json)


@app.command("disable")
def disable(email: Email, as_json: JsonOption = False) -> None:
    """Lock a user out from the next request on; every login ends."""
    _set_disabled(email, disabled=True, as_json=as_json)


@app.command("enable")
def enable(email: Email, as_json: JsonOption = False) -> None:
    """Let a user sign in again."""
    _set_disabled(email, disabled=False, as_json=as_json)


def _set_disabled(email: str, *, disabled: bool, as_json: bool) -> None:
    async def work(settings: Settings) -> User:
        async with opened(settings) as shared, tenant_service(shared) as (tenants, _):
            return await tenants.set_disabled(email, disabled=disabled)

    show([_row(run(work))], COLUMNS, as_json=as_json)
