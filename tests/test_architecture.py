"""The house rules that no linter knows: what has to be there for every port, every error, every route."""

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NewType, get_args, get_origin, get_type_hints

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

import backend.adapters.db.ledger  # noqa: F401  # its errors belong to the tree
from backend.adapters.db.migrations import upgrade
from backend.api import deps
from backend.api.deps.callers import asks_who_calls
from backend.api.errors import STATUS, status_of
from backend.api.router import PUBLIC
from backend.domain import errors
from backend.domain.errors import ForecourtError
from backend.domain.ids import TenantId
from backend.main import create_app
from backend.services import ports
from tests.api.conftest import embedded_settings
from tests.routes import served_routes

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = sorted((PROJECT / "backend").rglob("*.py"))
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
MAX_LINES = 300

HANDED_OUT_BY = {
    "EncodedRows": "a ServedModel",
    "ServedModel": "the ModelCatalog",
    "QuotaHistory": "the UsageReader's adapter, to admission alone",
    "Mailer": "the Outbox, whose adapter it serves",
    "UsageRollups": "the worker",
    "UsageMonths": "the worker",
    "UsageRetention": "the worker",
    "Counter": "Metrics",
    "Gauge": "Metrics",
    "Histogram": "Metrics",
    "ModelFiles": "composition, to the model service and to what changes its models",
    "Biller": "the job that pushes usage",
    "PeriodTotals": "the job that pushes usage",
    "UsageTotals": "the worker's jobs",
    "Resolver": "the OutboundHttp adapter, which asks it before it calls",
    "SigningKeySmith": "the command line, where signing keys are rotated",
}
"""Ports that no route is given, and who is given them instead."""

CONTRACT_ELSEWHERE = {
    "ModelCatalog": "integration/model_service/test_model_service.py",
    "ModelRollouts": "integration/model_service/test_model_rollouts.py",
    "PasswordHasher": "unit/adapters/test_crypto_adapters.py",
    "Precedence": "unit/adapters/test_precedence.py",
    "KeyHasher": "unit/adapters/test_crypto_adapters.py",
    "Sealer": "unit/adapters/test_crypto_adapters.py",
    "OpaqueTokens": "unit/adapters/test_crypto_adapters.py",
    "CursorCodec": "unit/adapters/test_crypto_adapters.py",
    "TokenIssuer": "unit/adapters/test_access_tokens.py",
    "Store": "contracts/test_row_level_security.py",
    "UnitOfWork": "contracts/test_row_level_security.py",
    "HealthProbe": "api/test_health.py",
    "StrangerThrottle": "api/test_throttling.py",
    "Outbox": "contracts/test_mailers.py",
    "OutboundHttp": "integration/test_outbound_http.py",
    "WaitingUsage": "integration/test_waiting_usage.py",
}
"""Ports of one adapter, which are tested where it is: there is no second one to hold to the same contract."""

OF_NO_TENANT = {"Plans", "SigningKeys", "Users", "Sessions", "RevokedTokens", "MailedTokens", "UnitOfWork", "Store"}
"""What belongs to the platform or to a person."""

READS_ACROSS = re.compile(r".*_of_all_tenants|list_all")
NAMED_BY_SOMETHING_ELSE = {
    "Tenants.add": "a tenant is its own owner",
    "Tenants.by_slug": "how the operator and a login name a tenant",
    "Memberships.of_user": "a person's own seats, in all tenants",
    "Ledger.prepare": "an event says whose it is; nothing is stored",
    "ServiceAccounts.add": "the account says whose it is; the platform's are nobody's",
    "ServiceAccounts.list_of_platform": "those that are no tenant's",
    "ServiceAccounts.set_secret": "of an account that was read under its tenant, or is the platform's",
    "ServiceAccounts.delete": "of an account that was read under its tenant, or is the platform's",
}


def protocols() -> dict[str, Any]:
    found = {name: getattr(ports, name) for name in ports.__all__}
    return {name: port for name, port in found.items() if getattr(port, "_is_protocol", False)}


def repositories() -> set[str]:
    """Whatever a unit of work opens: given with it, not by a provider of its own."""
    properties = (member for _, member in inspect.getmembers(ports.UnitOfWork) if isinstance(member, property))
    return {get_type_hints(member.fget)["return"].__name__ for member in properties}


def given(annotation: Any) -> Any:
    """Return what a provider hands out, be it one, several, or one for the length of a request."""
    return get_args(annotation)[0] if get_origin(annotation) is not None else annotation


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def subclasses(base: type[ForecourtError]) -> Iterator[type[ForecourtError]]:
    for child in base.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(embedded_settings(tmp_path_factory.mktemp("unopened")))


# Ports


def test_every_port_has_a_provider_whose_return_type_is_the_port() -> None:
    providers = [member for name, member in inspect.getmembers(deps, inspect.isfunction) if name.startswith("get_")]
    provided = {getattr(given(get_type_hints(each).get("return")), "__name__", "") for each in providers}
    wanted = protocols().keys() - repositories() - HANDED_OUT_BY.keys()
    assert wanted - provided == set()
    assert HANDED_OUT_BY.keys() & provided == set(), "an exception that is none any more"
    assert HANDED_OUT_BY.keys() <= protocols().keys()


def test_every_provider_is_a_named_function_that_takes_the_request_alone() -> None:
    for name in protocols().keys() - repositories() - HANDED_OUT_BY.keys():
        port = protocols()[name]
        found = [
            each
            for _, each in inspect.getmembers(deps, inspect.isfunction)
            if given(get_type_hints(each).get("return")) is port and each.__name__.startswith("get_")
        ]
        assert found, name
        for provider in found:
            assert list(inspect.signature(provider).parameters) == ["request"], provider


def test_every_port_has_a_contract_test() -> None:
    for name in protocols().keys() - repositories() - HANDED_OUT_BY.keys():
        own = PROJECT / "tests" / "contracts" / f"test_{snake(name)}.py"
        assert own.exists() is (name not in CONTRACT_ELSEWHERE), f"{name}: {own}"
    for name, path in CONTRACT_ELSEWHERE.items():
        assert (PROJECT / "tests" / path).exists(), name
        assert name in protocols(), name


def test_what_a_tenant_owns_takes_its_id_first() -> None:
    checked = 0
    exceptions = set()
    for name, port in protocols().items():
        if name in OF_NO_TENANT or not (name in repositories() or name in {"Admission", "Ledger", "UsageReader"}):
            continue
        for method_name, method in inspect.getmembers(port, inspect.isfunction):
            if method_name.startswith("_"):
                continue
            hints = get_type_hints(method)
            parameters = [each for each in inspect.signature(method).parameters if each != "self"]
            is_first = bool(parameters) and hints[parameters[0]] is TenantId
            checked += is_first
            if is_first or READS_ACROSS.fullmatch(method_name):
                continue
            exceptions.add(f"{name}.{method_name}")
    assert exceptions == NAMED_BY_SOMETHING_ELSE.keys()
    assert checked > 20


def test_a_tenants_id_is_a_type_of_its_own() -> None:
    assert isinstance(TenantId, NewType)


# Errors


def test_every_error_stands_in_the_status_table() -> None:
    named = {each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, ForecourtError)}
    assert named - STATUS.keys() == set()
    for error in subclasses(ForecourtError):
        assert 400 <= status_of(error) <= 599


def test_no_two_errors_look_the_same_unless_one_is_a_kind_of_the_other() -> None:
    known: dict[tuple[int, str], type[ForecourtError]] = {}
    tree: list[type[ForecourtError]] = [ForecourtError, *subclasses(ForecourtError)]
    for error in tree:
        other = known.setdefault((status_of(error), error.code), error)
        assert issubclass(error, other), (error, other)


# Routes


def test_every_route_asks_who_calls_or_is_declared_public(app: FastAPI) -> None:
    served = list(served_routes(app))
    assert len(served) > 20
    undeclared = {route.path for route in served if not asks_who_calls(route.dependant) and route.path not in PUBLIC}
    assert undeclared == set()


def test_what_is_declared_public_exists_and_asks_nobody(app: FastAPI) -> None:
    open_routes = {route.path for route in served_routes(app) if not asks_who_calls(route.dependant)}
    assert open_routes | {"/openapi.json"} == PUBLIC


def test_two_applications_of_one_process_do_not_share_a_thing(tmp_path: Path) -> None:
    async def both() -> None:
        async with AsyncExitStack() as stack:
            clients = []
            for name in ("one", "two"):
                folder = tmp_path / name
                folder.mkdir()
                settings = embedded_settings(folder, models=folder)
                upgrade(settings.migration_url)
                app = create_app(settings)
                await stack.enter_async_context(app.router.lifespan_context(app))
                transport = ASGITransport(app=app)
                client = AsyncClient(transport=transport, base_url="http://testserver")
                clients.append((app, await stack.enter_async_context(client)))
            for _, client in clients:
                assert (await client.get("/readyz")).status_code == 200
            (one, _), (two, _) = clients
            for name in ("store", "admission", "ledger", "token_issuer"):
                assert getattr(one.state.resources, name) is not getattr(two.state.resources, name)

    asyncio.run(both())


# Files


def test_no_file_is_longer_than_one_can_hold_in_mind() -> None:
    long = {str(path.relative_to(PROJECT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in long.items() if lines > MAX_LINES} == {}


def test_every_file_opens_with_what_it_is_about() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_nothing_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "helper", "common_utils", "misc"}
    assert [path for path in (*SOURCES, *TESTS) if path.stem in vague] == []


def test_alembic_reads_pyproject_and_its_folder_shadows_no_library() -> None:
    assert not (PROJECT / "alembic.ini").exists()
    assert not (PROJECT / "alembic" / "__init__.py").exists()
    assert "[tool.alembic]" in (PROJECT / "pyproject.toml").read_text()


def test_middleware_is_plain_asgi() -> None:
    for path in SOURCES:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "BaseHTTPMiddleware" not in names, path
        assert '.middleware("http")' not in path.read_text(), path


FORBIDDEN_IN_TESTS = ("unittest" + ".mock", "monkeypatch" + ".setattr", "time" + ".sleep", "mocker" + ".")


def test_tests_replace_nothing_from_outside_and_never_just_wait() -> None:
    for path in TESTS:
        text = path.read_text()
        assert [word for word in FORBIDDEN_IN_TESTS if word in text] == [], path


# Imports


def _at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: everything outside of functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += [*node.decorator_list, *node.args.defaults] if not isinstance(node, ast.Lambda) else []
            continue
        yield node
        waiting += list(ast.iter_child_nodes(node))


def test_no_module_reads_the_environment_or_makes_settings_when_it_is_imported() -> None:
    for path in SOURCES:
        if path.name == "__main__.py":
            continue
        nodes = list(_at_import(ast.parse(path.read_text())))
        # To set one for a library that is about to be imported is not to read any.
        set_here = {node.value for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and node not in set_here:
                assert node.attr not in {"environ", "getenv", "environb"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"Settings", "create_app", "getenv", "open"}, path


IMPORT_EVERYTHING = """
import importlib, json, os, pkgutil, sys, warnings
seen = []
quiet = {"/proc", "/sys", "/etc", "/dev"}
def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, str):
            writes = any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            ours = path.startswith(project) and not path.endswith((".py", ".pyc")) and os.path.isfile(path)
            if (writes or ours) and not any(path.startswith(root) for root in quiet):
                seen.append([event, path])
    elif event in {"socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen", "os.system", "os.mkdir"}:
        seen.append([event, repr(arguments)])
project, packages = sys.argv[1], os.path.join(sys.argv[1], "var")
sys.path.insert(0, project)
sys.addaudithook(watch)
import backend
found = [each.name for each in pkgutil.walk_packages(backend.__path__, "backend.")]
names = [name for name in found if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
seen = [each for each in seen if not each[1].startswith(packages)]
print(json.dumps({"modules": len(names), "seen": seen}))
"""


def test_importing_every_module_opens_nothing() -> None:
    """In a process of its own, without any environment: no file of ours, no socket, no database, no child."""
    ended = subprocess.run(
        (sys.executable, "-I", "-B", "-c", IMPORT_EVERYTHING, str(PROJECT)),
        env={},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["modules"] > 100
    assert found["seen"] == []
