"""``forecourt models``: the model repository."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend import model_service
from backend.adapters.crypto.model_signatures import Ed25519ModelSigner, UnusableSigningKey
from backend.cli.console import JsonOption, explained, fail, opened, run, show
from backend.composition import open_model_keys
from backend.composition.models import open_model_files
from backend.domain.audit import OPERATOR, Action
from backend.model_service.aliases import is_alias_name
from backend.model_service.errors import ModelRefused, RegistrationError
from backend.model_service.manifest import Candidate
from backend.model_service.releases import check_libraries
from backend.model_service.repository import ModelRepository
from backend.model_service.rollouts import FolderRollouts
from backend.services.rollouts import RolloutService
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.model_service import Registered

app = typer.Typer(help="Register, sign, roll out and remove models.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
VersionArgument = Annotated[str, typer.Argument(help="The version.")]


def _repository() -> tuple[ModelRepository, Settings]:
    with explained():
        settings = Settings()
        return ModelRepository(open_model_files(settings), is_signed=open_model_keys(settings)), settings


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ModelRefused as refused:
        fail(refused.reason)
    except RegistrationError as error:
        fail(str(error))
    except OSError as error:
        fail(f"FORECOURT_MODELS cannot be read or changed: {type(error.__cause__ or error).__name__}")


@asynccontextmanager
async def _rollouts(settings: Settings) -> AsyncIterator[RolloutService]:
    """Open the audit log, without which nothing here is changed, and the folder of models."""
    async with opened(settings) as shared, shared.database.unit_of_work() as unit:
        yield RolloutService(unit=unit, rollouts=FolderRollouts(ModelRepository(open_model_files(settings))))


def _roll_out(change: Callable[[RolloutService], Awaitable[object]]) -> None:
    async def work(settings: Settings) -> None:
        async with _rollouts(settings) as rollouts:
            await change(rollouts)

    run(work)


@app.command("add")
def add(
    pipeline: Annotated[Path, typer.Argument(help="Fitted pipeline: a .skops, .joblib or .pkl file.", exists=True)],
    name: Annotated[str, typer.Option(help="Name to serve it under.")],
    sample: Annotated[Path, typer.Option(help="CSV of rows as callers will send them.", exists=True)],
    target: Annotated[str | None, typer.Option(help="The sample's column with the truth: measures the model.")] = None,
    version: Annotated[str | None, typer.Option(help="By default the next number.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias to point at the new version.")] = None,
) -> None:
    """Verify a fitted pipeline and publish it as a new version; say what was chosen."""
    _, settings = _repository()
    if alias is not None and not is_alias_name(alias):
        fail("The alias must be letters, digits, '.', '-' and '_', at most 64, and not a number.")

    async def work(settings: Settings) -> "Registered":
        async with _rollouts(settings) as rollouts:
            registered = model_service.register(
                open_model_files(settings),
                pipeline,
                name=name,
                sample=sample,
                target=target,
                version=version,
                allow_pickle=settings.allow_pickle_models,
            )
            manifest = registered.manifest
            await rollouts.record(OPERATOR, Action.MODEL_ADDED, name, manifest.version, sha256=manifest.sha256)
            if alias is not None:
                await rollouts.set_alias(OPERATOR, name, alias, {manifest.version: 1})
            return registered

    with _refused():
        registered = run(work)
    for finding in registered.findings:
        typer.echo(finding)
    if alias is not None:
        typer.echo(f"alias {alias} points at version {registered.manifest.version}")
    show(
        [_measured(candidate) for candidate in registered.manifest.runner.candidates],
        ("runner", "verdict", "one row", "largest difference", "reason"),
        as_json=False,
        title="What the parity gate measured",
    )

    if settings.model_signing_keys:
        typer.echo(f"not served until it is signed: forecourt models sign {name} {registered.manifest.version} --key …")


def _measured(candidate: Candidate) -> dict[str, object]:
    time_us, difference = candidate.one_row_us, candidate.max_difference
    return {
        "runner": candidate.name,
        "verdict": candidate.verdict.value,
        "one row": None if time_us is None else f"{time_us:g} µs",
        "largest difference": None if difference is None else f"{difference:.1e}",
        "reason": candidate.reason,
    }


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List every version in the repository."""
    with _refused():
        rows = _listed(_repository()[0].look())
    show(rows, ("name", "version", "task", "runner", "problem"), as_json=as_json)


def _listed(repository: ModelRepository) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in repository.names():
        unloaded = repository.unloaded(name)
        for version in repository.versions(name):
            try:
                manifest = repository.manifest(name, version)
                check_libraries(manifest)
            except ModelRefused as refused:
                rows.append(_row(name, version, problem=refused.reason))
                continue
            problem = "unloaded" if version in unloaded else ""
            rows.append(_row(name, version, task=manifest.task.value, runner=manifest.runner.name, problem=problem))
    return rows


def _row(name: str, version: str, *, task: str = "", runner: str = "", problem: str = "") -> dict[str, object]:
    return {"name": name, "version": version, "task": task, "runner": runner, "problem": problem}


@app.command("show")
def show_model(name: NameArgument, version: VersionArgument) -> None:
    """Print a version's manifest."""
    repository, _ = _repository()
    with _refused():
        manifest = repository.manifest(name, version)
    typer.echo(manifest.to_json().decode())


@app.command("verify")
def verify(as_json: JsonOption = False) -> None:
    """Check every version's signature, manifest, digests and libraries; leave with status 1 if one does not hold."""
    with _refused():
        rows = _verdicts(_repository()[0].look())
    show(rows, ("name", "version", "verdict"), as_json=as_json)
    if any(row["verdict"] != "ok" for row in rows):
        raise typer.Exit(1)


def _verdicts(repository: ModelRepository) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in repository.names():
        for version in repository.versions(name):
            try:
                check_libraries(repository.check(name, version))
            except ModelRefused as refused:
                rows.append({"name": name, "version": version, "verdict": refused.reason})
            else:
                rows.append({"name": name, "version": version, "verdict": "ok"})
    return rows


@app.command("sign")
def sign(
    name: NameArgument,
    version: VersionArgument,
    key: Annotated[
        Path, typer.Option(help="Ed25519 private key, PEM: openssl genpkey -algorithm ed25519.", exists=True)
    ],
) -> None:
    """Sign a version; print the public key that FORECOURT_MODEL_SIGNING_KEYS has to list."""
    with explained():
        # Not signed yet, so nothing is asked but that the version is whole.
        repository = ModelRepository(open_model_files(Settings()))
    try:
        signer = Ed25519ModelSigner(key.read_bytes())
    except UnusableSigningKey as error:
        fail(str(error))

    with _refused():
        repository.sign(name, version, signer.sign)
    typer.echo(f"{name}@{version} is signed; public key {signer.public_key}")


@app.command("alias")
def alias(
    name: NameArgument,
    alias: Annotated[str, typer.Argument(help="The alias; `stable` is what a bare name means.")],
    targets: Annotated[list[str] | None, typer.Argument(help="A version, or versions with weights: 2=95 3=5.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
) -> None:
    """Point an alias at a version, or share its callers between versions; `shadow` only watches."""
    if bool(targets) == remove:
        fail("Name the versions, or --remove.")
    weighted = dict(_weighted(target) for target in targets or ())
    if remove:
        _roll_out(lambda rollouts: rollouts.remove_alias(OPERATOR, name, alias))
    else:
        _roll_out(lambda rollouts: rollouts.set_alias(OPERATOR, name, alias, weighted))
    typer.echo(f"{name}@{alias} " + (f"is {', '.join(targets)}" if targets else "is removed"))


def _weighted(text: str) -> tuple[str, int]:
    version, _, weight = text.partition("=")
    if weight and (not weight.isascii() or not weight.isdigit() or not int(weight)):
        fail("A weight must be a whole number above zero.")
    return version, int(weight or 1)


@app.command("unload")
def unload(name: NameArgument, version: VersionArgument) -> None:
    """Keep a version from being served until it is loaded again. Servers let go of it within seconds."""
    _roll_out(lambda rollouts: rollouts.unload(OPERATOR, name, version))
    typer.echo(f"{name}@{version} is unloaded")


@app.command("load")
def load(name: NameArgument, version: VersionArgument) -> None:
    """Let a version be served again that was unloaded. Servers load it within seconds."""
    _roll_out(lambda rollouts: rollouts.load(OPERATOR, name, version))
    typer.echo(f"{name}@{version} is loaded again")


@app.command("remove")
def remove(name: NameArgument, version: VersionArgument) -> None:
    """Remove a version that no alias points at. Servers let go of it within seconds."""

    async def work(settings: Settings) -> None:
        async with _rollouts(settings) as rollouts:
            await rollouts.record(OPERATOR, Action.MODEL_REMOVED, name, version)
            with _refused():  # here, or it would pass for a fault of the database
                ModelRepository(open_model_files(settings)).remove(name, version)

    with _refused():
        run(work)
    typer.echo(f"{name}@{version} is removed")
