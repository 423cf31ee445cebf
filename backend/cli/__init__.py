"""The ``forecourt`` command."""

import typer

from backend import __version__
from backend.cli import auth, keys, models, service_accounts, serving, tenants, usage, users

app = typer.Typer(
    name="forecourt",
    help="Sell predictions: serve trained models to many tenants, admitted, metered and billed exactly once.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("serve")(serving.serve)
app.command("demo")(serving.demo)
app.command("migrate")(serving.migrate)
app.command("worker")(serving.work)
app.add_typer(tenants.app, name="tenants")
app.add_typer(users.app, name="users")
app.add_typer(service_accounts.app, name="service-accounts")
app.add_typer(keys.app, name="keys")
app.add_typer(auth.app, name="auth")
app.add_typer(models.app, name="models")
app.add_typer(usage.app, name="usage")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    _version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", is_eager=True, callback=_show_version
    ),
) -> None:
    """Sell predictions: serve trained models to many tenants, admitted, metered and billed exactly once."""
