"""What ``scripts/run`` starts: what it prints and writes, what it keeps, what it refuses."""

import json
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from backend.adapters.db.migrations import upgrade
from tests.databases import connected, newest_revision, sqlite_url
from tests.integration.conftest import NewSite
from tests.integration.customers import Customers
from tests.integration.forecourt_process import ServerProcess, Site, forecourt, new_site

pytestmark = [pytest.mark.anyio, pytest.mark.process]

CURL_WITHIN_S = 30.0
DEMO_MODELS = {"breast-cancer", "diabetes", "iris", "wine"}
SECRETS = {
    "SECRET_KEY": "tests-0123456789-abcdefghijklmnopqrstuv",
    "KEY_PEPPERS": "1:tests-9876543210-zyxwvutsrqponmlkjihgfe",
}

# The first start


@pytest.fixture(scope="module")
def fresh_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder in which nothing has happened yet, not even training."""
    with new_site(tmp_path_factory.mktemp("fresh")) as site:
        yield site


@pytest.fixture(scope="module")
def first(fresh_site: Site) -> ServerProcess:
    """The first server there; it serves. Started as anybody starts it: the others of these tests are warm."""
    server = fresh_site.start(is_cold=True)
    assert server.base_url
    return server


def test_a_first_start_says_what_it_does(first: ServerProcess) -> None:
    migrated, *trained, starting = first.said
    assert migrated == f"database migrated to revision {newest_revision()}"
    assert {line.split("@1: ")[0] for line in trained} == DEMO_MODELS
    assert all("held-out rows" in line for line in trained)
    assert starting == "starting the server"
    for shown in (first.base_url, f"{first.base_url}/docs", str(first.folder / "demo.json")):
        assert f" {shown}\n" in first.stdout


def test_the_credentials_file_has_its_exact_form(first: ServerProcess) -> None:
    content = first.credentials
    assert set(content) == {"base_url", "tenants", "operator", "billing"}
    assert set(content["billing"]) == {"client_id", "client_secret"}
    assert content["base_url"] == first.base_url
    assert [tenant["slug"] for tenant in content["tenants"]] == ["acme", "globex"]
    for tenant in content["tenants"]:
        assert set(tenant) == {"slug", "admin", "api_key", "test_key"}
        assert tenant["api_key"].startswith("fc_live_")
        assert tenant["test_key"].startswith("fc_test_")
    for person in (content["operator"], *(tenant["admin"] for tenant in content["tenants"])):
        assert set(person) == {"email", "password"}
        assert all(person.values())


@pytest.mark.parametrize("name", ["demo.json", "demo-secrets.json"])
def test_only_the_owner_reads_secrets(first: ServerProcess, name: str) -> None:
    assert (first.folder / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_lines_work_as_pasted(first: ServerProcess) -> None:
    prediction = pasted(printed_after("A prediction:", first.stdout))
    assert prediction["predictions"][0]["label"] == "setosa"
    summary = pasted(printed_after("What it used:", first.stdout))
    [line] = summary["data"]
    assert (line["model"], line["units"]) == ("iris", 1)


async def test_the_documentation_is_where_it_says(first: ServerProcess) -> None:
    async with Customers(first.base_url, first.credentials) as customers:
        assert (await customers.client.get("/docs")).status_code == 200
        models = await customers.client.get("/v1/models", headers=customers["acme"].key())
    assert {model["name"] for model in models.json()["data"]} == DEMO_MODELS


def printed_after(heading: str, stdout: str) -> str:
    """Return the lines under a heading, as they stand there."""
    return stdout.partition(f"  {heading}\n")[2].partition("\n\n")[0] + "\n"


def pasted(lines: str) -> dict[str, Any]:
    answer = subprocess.run(
        ("sh", "-c", lines), capture_output=True, text=True, timeout=CURL_WITHIN_S, check=True, cwd="/"
    )
    content: dict[str, Any] = json.loads(answer.stdout)
    return content


# The starts after it


async def test_a_further_start_goes_on_where_the_last_one_ended(first: ServerProcess, make_site: NewSite) -> None:
    async with Customers(first.base_url, first.credentials) as customers:
        assert (await customers["acme"].predict(3)).status_code == 200
        booked = await customers["acme"].ledger()
    second = further_site(first, make_site).start()
    async with Customers(second.base_url, second.credentials) as customers:
        assert second.credentials == first.credentials | {"base_url": second.base_url}
        assert await customers["acme"].ledger() == booked
        assert (await customers["acme"].predict(1)).status_code == 200
    # Nothing is trained.
    assert second.said == [f"database at revision {newest_revision()}", "starting the server"]


async def test_a_lost_credentials_file_is_written_anew(first: ServerProcess, make_site: NewSite) -> None:
    site = further_site(first, make_site)
    (site.folder / "demo.json").unlink()
    server = site.start()
    for before, after in zip(first.credentials["tenants"], server.credentials["tenants"], strict=True):
        assert before["admin"]["email"] == after["admin"]["email"]
        assert before["admin"]["password"] != after["admin"]["password"]
        assert before["api_key"] != after["api_key"]
    async with Customers(server.base_url, server.credentials) as customers:
        for slug in ("acme", "globex"):
            assert (await customers[slug].predict(1)).status_code == 200
            assert (await customers[slug].predict(1, key="test_key")).status_code == 200
            assert [event["units"] for event in (await customers[slug].ledger())[-2:]] == [1, 1]


def test_another_installations_database_is_refused_and_left_alone(
    first: ServerProcess, make_site: NewSite, folder: Path
) -> None:
    url = further_site(first, make_site).database_url
    before = accounts(url)
    require_one_line(start("demo", folder, DATABASE_URL=url, MODELS=str(first.folder / "models")), "SECRET_KEY")
    assert accounts(url) == before


def further_site(first: ServerProcess, make_site: NewSite) -> Site:
    """Make a site with the state that the first server has now."""
    site = make_site()
    site.settings.pop("MODELS")
    shutil.copytree(first.folder, site.folder, ignore=shutil.ignore_patterns("forecourt.db*"))
    with (
        closing(sqlite3.connect(first.folder / "forecourt.db")) as live,
        closing(sqlite3.connect(site.folder / "forecourt.db")) as copy,
    ):
        live.backup(copy)
    return site


def accounts(url: str) -> list[tuple[Any, ...]]:
    """Return what somebody signs in with."""
    with connected(url) as connection:
        users = connection.execute(text("SELECT id, password_hash FROM users ORDER BY id"))
        keys = connection.execute(text("SELECT id, secret_hash FROM api_keys ORDER BY id"))
        return [tuple(row) for row in (*users, *keys)]


# What is refused, in one line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def require_one_line(ended: "subprocess.CompletedProcess[str]", *words: str) -> None:
    [line] = ended.stderr.splitlines()
    assert line.startswith("forecourt: ")
    for word in words:
        assert word in line
    assert ended.returncode != 0
    assert "Traceback" not in ended.stdout


def start(command: str, folder: Path, *options: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Start what should not get far."""
    where = ("--folder", str(folder)) if command == "demo" else ()
    own = {"ENVIRONMENT": "production", **SECRETS} if command == "serve" else {}
    return forecourt(command, "--port", "0", *where, *options, settings={**own, **settings})


def test_a_taken_port_is_refused(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        require_one_line(start("demo", folder, "--port", port), f"127.0.0.1:{port}", "in use")
    assert not folder.exists()


def test_several_workers_without_redis_are_refused(folder: Path) -> None:
    require_one_line(start("demo", folder, "--workers", "2"), "FORECOURT_REDIS_URL")


@pytest.mark.parametrize("url", ["localhost:6379", "redis+sentinel://u:hunter2@watch:26379", "redis://cache:port"])
def test_a_malformed_redis_address_is_refused_without_repeating_it(folder: Path, url: str) -> None:
    ended = start("demo", folder, REDIS_URL=url)
    require_one_line(ended, "FORECOURT_REDIS_URL")
    assert "hunter2" not in ended.stderr


def test_an_unreadable_database_is_refused(folder: Path) -> None:
    folder.mkdir()
    garbage = b"this is not a database, whatever its name says\n" * 200
    (folder / "forecourt.db").write_bytes(garbage)
    require_one_line(start("demo", folder, DATABASE_URL=sqlite_url(folder)), "database")
    assert (folder / "forecourt.db").read_bytes() == garbage


@pytest.mark.parametrize("command", ["demo", "serve"])
def test_a_newer_database_is_refused(folder: Path, command: str) -> None:
    folder.mkdir()
    url = sqlite_url(folder)
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    require_one_line(start(command, folder, DATABASE_URL=url), "9999", "newer")


def test_a_database_that_is_not_there_is_refused(folder: Path) -> None:
    require_one_line(start("demo", folder, DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/nothing"), "database")


# Models that are damaged


async def test_a_damaged_model_is_out_and_the_others_serve(
    make_site: NewSite, models_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "models"
    shutil.copytree(models_root, copy)
    [artifact] = (copy / "wine" / "1").glob("*.skops")
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)

    server = make_site(MODELS=str(copy)).start()
    async with Customers(server.base_url, server.credentials) as customers:
        ready = await customers.client.get("/readyz")
        served = await customers["acme"].predict(1, model="iris")
        refused = await customers["acme"].predict([[1.0] * 13], model="wine")
    resources = {each["name"]: each for each in ready.json()["resources"]}
    assert ready.status_code == 200
    assert resources["model:wine"]["status"] == "degraded"
    assert "SHA-256" in resources["model:wine"]["detail"]
    assert {resources[f"model:{name}"]["status"] for name in DEMO_MODELS - {"wine"}} == {"ok"}
    assert served.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (503, "model-unavailable")
    [warning] = [line for line in server.logged if line["level"] == "warning"]
    assert "wine" in warning["message"]
    assert "SHA-256" in warning["message"]
