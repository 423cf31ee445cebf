"""What each start imports: libraries that cost seconds and a hundred megabytes come only where models are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.model_cache import cached_demo_models

PROJECT = Path(__file__).resolve().parents[2]
TO_SERVE = {"joblib", "numpy", "onnxruntime", "pandas", "scipy", "skops", "sklearn", "treelite"}
"""What a server needs as soon as there is a model."""
TO_REGISTER = {"onnx", "skl2onnx", "sklearn.metrics", "sklearn.datasets"}
"""What only comes with a new model, or with the demo."""
OF_HTTP = {"fastapi", "starlette"}
WATCHED = TO_SERVE | TO_REGISTER | OF_HTTP
MAY_BE_THERE = {"sklearn.metrics", "sklearn.datasets"}
"""Parts of scikit-learn that its other parts import as they like."""

SHELL = """
import json, sys

from backend.cli import app

watched = json.loads(sys.argv[1])
for line in json.loads(sys.argv[2]):
    try:
        status = app(line.split(), standalone_mode=False)
    except SystemExit as ended:
        status = ended.code
    found = [name for name in watched if name in sys.modules]
    print("seen", json.dumps([line, status, found]))
"""

SERVER = """
import asyncio, json, shutil, sys
from pathlib import Path

from backend.domain.models import ModelRef
from backend.main import create_app
from backend.model_service.lane import LaneKey
from backend.domain.models import OutputOptions
from backend.settings import Settings

watched, models = json.loads(sys.argv[1]), Path(sys.argv[2])


def tell():
    print("seen", json.dumps([name for name in watched if name in sys.modules]))


def pools(rows):
    from threadpoolctl import threadpool_info

    found = {(pool["user_api"], pool["num_threads"]) for pool in threadpool_info()}
    return [json.dumps(sorted(found)).encode()]


async def work():
    settings = Settings()
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        tell()
        shutil.copytree(models, settings.models, dirs_exist_ok=True)
        catalog = app.state.resources.catalog
        await catalog.refresh()
        tell()
        iris = catalog.resolve(ModelRef.parse("iris"))
        rows = iris.encode([[5.1, 3.5, 1.4, 0.2]])
        [answer] = await iris.run(rows, [0], OutputOptions(), share="a")
        print("seen", answer.decode())
        [found] = await catalog._lanes.submit(
            LaneKey("any", "load", OutputOptions()), pools, [(1.0,)], [b"1"], share="a"
        )
        print("seen", found.decode())


asyncio.run(work())
"""


def told(script: str, folder: Path, *arguments: str) -> list[Any]:
    """Run a script in a process of its own, on a database of its own; return what it saw."""
    environment = {
        "FORECOURT_ENVIRONMENT": "demo",
        "FORECOURT_SECRET_KEY": "imports-0123456789-abcdefghijklmnopqrstuv",
        "FORECOURT_KEY_PEPPERS": "1:imports-9876543210-zyxwvutsrqponmlkjihgfe",
        "FORECOURT_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'forecourt.db'}",
        "FORECOURT_MODELS": str(folder / "models"),
        "FORECOURT_MAIL_FOLDER": str(folder / "mail"),
        # What a library finds by itself, so that one thread is somebody's doing.
        "OPENBLAS_NUM_THREADS": "3",
        "OMP_NUM_THREADS": "3",
    }
    ended = subprocess.run(
        (sys.executable, "-c", script, json.dumps(sorted(WATCHED)), *arguments),
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line.removeprefix("seen ")) for line in ended.stdout.splitlines() if line.startswith("seen ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports")


COMMANDS = (
    "--help",
    "migrate",
    "tenants create acme",
    "tenants list",
    "keys create acme --name one",
    "keys list acme",
    "models list",
    "models add --help",
    "serve --help",
    "demo --help",
    "worker --once",
)


def test_no_command_imports_what_models_need_unless_it_touches_one(folder: Path) -> None:
    seen = told(SHELL, folder, json.dumps(COMMANDS))
    # One process, so whatever any of them had imported would stay to be seen.
    assert seen == [[command, seen[at][1], []] for at, command in enumerate(COMMANDS)]
    assert {status for _, status, _ in seen} <= {None, 0}


def test_a_server_imports_what_models_need_with_the_first_model(folder: Path) -> None:
    told(SHELL, folder, json.dumps(["migrate"]))
    empty, with_models, answer, threads = told(SERVER, folder, str(cached_demo_models()))
    assert set(empty) == OF_HTTP
    assert set(with_models) - MAY_BE_THERE == OF_HTTP | TO_SERVE
    assert answer["label"] == "setosa"
    # The lane's worker was started long before the compiled libraries came.
    assert threads == [["blas", 1], ["openmp", 1]]
