"""``forecourt auth``: the keys that sign access tokens."""

import typer

from backend.adapters.crypto.signing_keys import SealingSmith
from backend.cli.console import JsonOption, opened, run, show
from backend.composition import load_signing_keys, secret_of
from backend.services.ports.store import StoredSigningKey
from backend.services.signing_keys import KEPT_AFTER_RETIREMENT, SigningKeyService
from backend.settings import Settings

app = typer.Typer(help="Rotate and list the keys that sign access tokens.", no_args_is_help=True)

COLUMNS = ("kid", "created_at", "retired_at", "verifies_until")


def _row(key: StoredSigningKey) -> dict[str, object]:
    until = key.retired_at + KEPT_AFTER_RETIREMENT if key.retired_at else None
    return {
        "kid": key.kid,
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "retired_at": key.retired_at.isoformat(timespec="seconds") if key.retired_at else None,
        "verifies_until": until.isoformat(timespec="seconds") if until else None,
    }


@app.command("rotate-signing-key")
def rotate_signing_key(as_json: JsonOption = False) -> None:
    """Sign with a new key from now on; the old one verifies until the last of its tokens has expired.

    Running servers notice within half a minute, or with the first token of the new key. What verifies nothing any
    more is removed.
    """

    async def work(settings: Settings) -> list[StoredSigningKey]:
        async with opened(settings) as shared:
            secret = secret_of(settings)
            # Whoever holds another secret must not lock the servers out.
            await load_signing_keys(shared.database, secret, shared.clock)
            async with shared.database.unit_of_work() as unit:
                service = SigningKeyService(unit=unit, smith=SealingSmith(secret), clock=shared.clock)
                await service.rotate()
                await service.prune()
                return await unit.signing_keys.list_all()

    show([_row(key) for key in run(work)], COLUMNS, as_json=as_json)


@app.command("signing-keys")
def list_signing_keys(as_json: JsonOption = False) -> None:
    """List the signing keys, newest first; the one that was not retired signs."""

    async def work(settings: Settings) -> list[StoredSigningKey]:
        async with opened(settings) as shared, shared.database.unit_of_work(read_only=True) as unit:
            return await unit.signing_keys.list_all()

    show([_row(key) for key in run(work)], COLUMNS, as_json=as_json)


@app.command("prune")
def prune(as_json: JsonOption = False) -> None:
    """Remove the signing keys whose tokens have all expired; the worker does so by itself."""

    async def work(settings: Settings) -> int:
        async with opened(settings) as shared, shared.database.unit_of_work() as unit:
            smith = SealingSmith(secret_of(settings))
            return await SigningKeyService(unit=unit, smith=smith, clock=shared.clock).prune()

    show([{"removed": run(work)}], ("removed",), as_json=as_json)
