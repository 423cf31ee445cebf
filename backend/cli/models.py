"""``forecourt models``: the model repository."""

from pathlib import Path
from typing import Annotated

import typer

from backend.cli.console import JsonOption, explained, fail, show
from backend.model_service.errors import ModelRefused, RegistrationError
from backend.model_service.registration import register
from backend.model_service.repository import ModelRepository
from backend.settings import Settings

app = typer.Typer(help="Register, list, show and verify models.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]


def _repository() -> tuple[ModelRepository, Settings]:
    with explained():
        settings = Settings()
    return ModelRepository(settings.models), settings


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
    try:
        registered = register(
            settings.models,
            pipeline,
            name=name,
            sample=sample,
            target=target,
            version=version,
            alias=alias,
            allow_pickle=settings.allow_pickle_models,
        )
    except RegistrationError as error:
        fail(str(error))
    for finding in registered.findings:
        typer.echo(finding)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List every version in the repository."""
    repository, _ = _repository()
    rows: list[dict[str, object]] = []
    for name in repository.names():
        for version in repository.versions(name):
            try:
                manifest = repository.manifest(name, version)
            except ModelRefused as refused:
                rows.append(_row(name, version, problem=refused.reason))
                continue
            rows.append(_row(name, version, task=manifest.task.value, runner=manifest.runner.name))
    show(rows, ("name", "version", "task", "runner", "problem"), as_json=as_json)


def _row(name: str, version: str, *, task: str = "", runner: str = "", problem: str = "") -> dict[str, object]:
    return {"name": name, "version": version, "task": task, "runner": runner, "problem": problem}


@app.command("show")
def show_model(name: NameArgument, version: Annotated[str, typer.Argument(help="The version.")]) -> None:
    """Print a version's manifest."""
    repository, _ = _repository()
    try:
        manifest = repository.manifest(name, version)
    except ModelRefused as refused:
        fail(refused.reason)
    typer.echo(manifest.to_json().decode())


@app.command("verify")
def verify(as_json: JsonOption = False) -> None:
    """Check every version's manifest and digest; leave with status 1 if one does not hold."""
    repository, _ = _repository()
    rows: list[dict[str, object]] = []
    for name in repository.names():
        for version in repository.versions(name):
            try:
                repository.artifact(repository.manifest(name, version))
            except ModelRefused as refused:
                rows.append({"name": name, "version": version, "verdict": refused.reason})
            else:
                rows.append({"name": name, "version": version, "verdict": "ok"})
    show(rows, ("name", "version", "verdict"), as_json=as_json)
    if any(row["verdict"] != "ok" for row in rows):
        raise typer.Exit(1)
