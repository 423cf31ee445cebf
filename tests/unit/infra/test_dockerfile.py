"""What can be known of the image without an engine to build it."""

import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE_TEXT = (ROOT / "infra" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
BUILT_HERE = {name: definition for name, definition in SERVICES.items() if "build" in definition}


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: each instruction's name and the rest of it, on one line."""
    lines = [line for line in DOCKERFILE_TEXT.splitlines() if line.strip() and not line.startswith("#")]
    pairs = [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]
    return [(name, " ".join(rest.split())) for name, rest in pairs]


def final_stage() -> list[tuple[str, str]]:
    """Return the instructions from the last FROM on."""
    every = instructions()
    return every[max(place for place, (name, _) in enumerate(every) if name == "FROM") :]


def the_only(name: str) -> str:
    """Return the one instruction of that name in the final stage."""
    [rest] = [rest for found, rest in final_stage() if found == name]
    return rest


def copied_from_the_checkout() -> set[str]:
    """Return the sources of every COPY that reads the build context."""
    copies = [shlex.split(rest) for name, rest in instructions() if name in {"COPY", "ADD"}]
    return {source.rstrip("/") for words in copies if "--from=build" not in words for source in words[:-1]}


@contextmanager
def answering(status: int, path: str) -> Iterator[int]:
    """Serve one status on one path, and 404 elsewhere; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def exit_code_of(probe: list[str], port: int) -> int:
    """Run a health check's python against another port."""
    arguments = [argument.replace(":8000/", f":{port}/") for argument in probe[1:]]
    return subprocess.run([sys.executable, "-S", *arguments], check=False, capture_output=True, env={}).returncode


def test_both_stages_begin_with_the_same_pinned_image() -> None:
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert bases == ["python:3.12-slim", "python:3.12-slim"]


def test_the_image_ends_as_a_user_that_is_not_root_and_compose_agrees() -> None:
    uid, gid = the_only("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert {definition["user"] for definition in BUILT_HERE.values()} == {f"{uid}:{gid}"}
    after = final_stage()[final_stage().index(("USER", f"{uid}:{gid}")) :]
    assert not {"RUN", "COPY", "ADD"} & {name for name, _ in after}


def test_everything_copied_exists_and_nothing_else_enters_the_build() -> None:
    sources = copied_from_the_checkout()
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []
    rules = [line for line in (ROOT / ".dockerignore").read_text().split("\n") if line and line[0] != "#"]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == sources
    dropped = [rule for rule in rules[1:] if not rule.startswith("!")]
    assert not [source for source in sources for rule in dropped if fnmatch(source, rule.removeprefix("**/"))]


def test_the_build_finds_what_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "backend", "alembic", *project["project"]["license-files"]}
    needed |= set(project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"])
    assert needed <= copied_from_the_checkout()


def test_dependencies_come_from_the_lock_and_the_project_asks_no_index() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and " install -" in rest and "pip" in rest]
    dependencies, project = installs
    assert {"--require-hashes", "/app/requirements/runtime.lock"} <= set(dependencies.split())
    assert {"--no-index", "--no-deps", "--no-build-isolation", "--editable"} <= set(project.split())


def test_no_secret_is_baked_in() -> None:
    baked = " ".join(rest for name, rest in instructions() if name in {"ENV", "ARG"})
    assert not re.search(r"SECRET|PASSWORD|PEPPER|TOKEN|DATABASE_URL", baked)
    assert not re.search(r"\bADD\b|curl|wget|https?://(?!127\.0\.0\.1)", DOCKERFILE_TEXT)


def test_the_image_runs_the_projects_own_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(the_only("ENTRYPOINT"))[0] in scripts
    assert json.loads(the_only("CMD")) == ["serve", "--host", "0.0.0.0", "--port", "8000"]
    assert SERVICES["migrate"]["command"] == ["migrate"]
    assert SERVICES["models"]["command"] == ["demo", "--no-serve"]
    assert SERVICES["worker"]["command"] == ["worker"]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_health_check_passes_on_200_and_fails_on_503(path: str) -> None:
    in_image = json.loads(the_only("HEALTHCHECK").partition(" CMD ")[2])
    in_compose = SERVICES["api"]["healthcheck"]["test"][1:]
    probe = {"/livez": in_image, "/readyz": in_compose}[path]
    with answering(200, path) as port:
        assert exit_code_of(probe, port) == 0
    with answering(503, path) as port:
        assert exit_code_of(probe, port) != 0
