"""The ``forecourt`` command: what it prints, what it changes, and one line for whatever goes wrong."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from skops.io import dump
from sqlalchemy import text
from typer.testing import CliRunner, Result

from backend import __version__
from backend.adapters.crypto.key_hashes import PepperedKeyHasher
from backend.cli import app
from backend.domain.api_keys import parse_key
from backend.domain.ids import TenantId
from backend.domain.limits import period_of
from backend.settings import Settings
from tests.contracts.ledgers import an_event, opened_books
from tests.databases import connected, migrated_sqlite, sqlite_url
from tests.model_cache import cached_demo_models

PEPPER = "Tn5-Wc8_Kv1Jb4Xr7Zm2Qh9Ld6Fs3GpYuAe"
PASSWORD = "seven purple elephants dance"
Forecourt = Callable[..., Result]


# `serve` and `demo` hand theirs on to the processes they start; it must not reach the tests that follow.
UNSET = dict.fromkeys([f"FORECOURT_{name.upper()}" for name in Settings.model_fields])


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("FORECOURT_"):
            monkeypatch.delenv(name)
    yield
    assert [name for name in os.environ if name.startswith("FORECOURT_")] == []


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied."""
    folder = tmp_path_factory.mktemp("migrated")
    migrated_sqlite(folder)
    return folder / "forecourt.db"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def bare(url: str, tmp_path: Path) -> Forecourt:
    """The command, configured for a database that nobody has made yet."""
    settings: dict[str, str | None] = {
        **UNSET,
        "FORECOURT_SECRET_KEY": "k3-9Xq_Zt7Lw2Vb8Nd4Rf6Hj1Mc5Ps0GyQe",
        "FORECOURT_KEY_PEPPERS": f"1:{PEPPER}",
        "FORECOURT_DATABASE_URL": url,
        "FORECOURT_MODELS": str(tmp_path / "models"),
    }
    runner = CliRunner()

    def run(*arguments: str, typed: str | None = None, **changes: str | None) -> Result:
        changed = {f"FORECOURT_{name.upper()}": value for name, value in changes.items()}
        return runner.invoke(app, arguments, env=settings | changed, input=typed)

    return run


@pytest.fixture
def forecourt(bare: Forecourt, migrated: Path, tmp_path: Path) -> Forecourt:
    """The command, on a migrated database."""
    shutil.copy(migrated, tmp_path)
    return bare


def printed(result: Result) -> list[dict[str, Any]]:
    """Return what ``--json`` printed."""
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def complaint(result: Result) -> str:
    """Check how a command fails: one line to standard error, nothing to standard output, and status 1."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("forecourt: ")
    assert "Traceback" not in line
    return line.removeprefix("forecourt: ")


# Help


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


def test_help_lists_every_command(bare: Forecourt) -> None:
    for group in ((), *(path for path, command in ALL.items() if hasattr(command, "commands"))):
        shown = bare(*group, "--help").stdout
        for path in ALL:
            if path[:-1] == group:
                assert re.search(rf"\b{path[-1]}\b", shown), path


@pytest.mark.parametrize("name", ["serve", "demo", "migrate", "tenants", "users", "keys", "models", "usage", "worker"])
def test_the_commands_of_the_contract_are_there(name: str) -> None:
    assert (name,) in ALL


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_explains_itself_and_its_parameters(bare: Forecourt, path: tuple[str, ...]) -> None:
    answer = bare(*path, "--help")
    assert answer.exit_code == 0
    assert ALL[path].help
    for parameter in ALL[path].params:
        assert parameter.help, (path, parameter.name)


def test_without_a_command_it_shows_what_there_is(bare: Forecourt) -> None:
    answer = bare()
    assert "Usage" in answer.output
    assert answer.exit_code in {0, 2}


def test_it_says_its_version(bare: Forecourt) -> None:
    assert bare("--version").stdout == f"{__version__}\n"


# Migrate


def test_migrate_says_what_it_did(bare: Forecourt, url: str) -> None:
    first = bare("migrate")
    assert re.fullmatch(r"migrated to revision \w+\n", first.stdout)
    again = bare("migrate")
    assert re.fullmatch(r"at revision \w+ already\n", again.stdout)
    with connected(url) as connection:
        assert connection.execute(text("SELECT count(*) FROM tenants")).scalar() == 0


@pytest.mark.parametrize(
    "arguments",
    [("tenants", "list"), ("users", "list"), ("keys", "list", "acme"), ("usage", "summary", "acme"), ("serve",)],
)
def test_a_database_that_was_not_migrated_is_told_apart_from_a_dead_one(
    bare: Forecourt, arguments: tuple[str, ...]
) -> None:
    assert "forecourt migrate" in complaint(bare(*arguments))


def test_a_newer_database_is_refused(forecourt: Forecourt, url: str) -> None:
    with connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '20991231'"))
        connection.commit()
    for arguments in (("migrate",), ("tenants", "list"), ("serve",)):
        assert "newer than this version" in complaint(forecourt(*arguments))


@pytest.mark.parametrize(
    ("database_url", "told"),
    [
        ("mysql://x", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:////nobody/has/this/folder/x.db", "cannot be used"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/nothing", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_reached_is_one_line(bare: Forecourt, database_url: str, told: str) -> None:
    for arguments in (("migrate",), ("tenants", "list")):
        assert told in complaint(bare(*arguments, database_url=database_url))


def test_a_file_that_is_no_database_is_one_line(bare: Forecourt, tmp_path: Path) -> None:
    (tmp_path / "forecourt.db").write_bytes(b"this is no database at all" * 100)
    assert "cannot be used" in complaint(bare("migrate"))


# Settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"port": "many"}, "FORECOURT_PORT"),
        ({"environment": "staging"}, "FORECOURT_ENVIRONMENT"),
        ({"secret_key": "short"}, "FORECOURT_SECRET_KEY must have at least"),
        ({"secret_key": None}, "FORECOURT_SECRET_KEY is not set"),
        ({"key_peppers": None}, "FORECOURT_KEY_PEPPERS is not set"),
        ({"key_peppers": "nonsense"}, "FORECOURT_KEY_PEPPERS: write peppers as"),
        ({"trusted_proxies": "everyone"}, "FORECOURT_TRUSTED_PROXIES"),
        ({"workers": "2"}, "FORECOURT_REDIS_URL"),
    ],
)
def test_j6_a_bad_setting_is_one_line_that_names_the_variable_and_repeats_no_value(
    forecourt: Forecourt, changes: dict[str, str | None], told: str
) -> None:
    for arguments in (("serve",), ("tenants", "list"), ("migrate",), ("models", "list")):
        line = complaint(forecourt(*arguments, **changes))
        assert told in line
        assert "nonsense" not in line
        assert PEPPER not in line


def test_several_workers_without_redis_are_refused_in_one_line(forecourt: Forecourt, tmp_path: Path) -> None:
    for command in (("serve",), ("demo", "--port", "0", "--folder", str(tmp_path))):
        assert "more than one worker needs FORECOURT_REDIS_URL" in complaint(forecourt(*command, "--workers", "2"))


# Tenants and users


def test_a_tenant_is_made_listed_suspended_and_resumed(forecourt: Forecourt) -> None:
    [made] = printed(forecourt("tenants", "create", "acme", "--name", "Acme Inc", "--plan", "pro", "--json"))
    assert made["id"].startswith("ten_")
    assert (made["slug"], made["name"], made["status"]) == ("acme", "Acme Inc", "active")
    assert printed(forecourt("tenants", "list", "--json")) == [made]
    assert printed(forecourt("tenants", "suspend", "acme", "--json"))[0]["status"] == "suspended"
    assert printed(forecourt("tenants", "list", "--json"))[0]["status"] == "suspended"
    assert printed(forecourt("tenants", "resume", "acme", "--json"))[0]["status"] == "active"


def test_a_table_shows_ids_in_full(forecourt: Forecourt) -> None:
    made = forecourt("tenants", "create", "acme")
    assert made.exit_code == 0
    [tenant] = printed(forecourt("tenants", "list", "--json"))
    assert tenant["id"] in made.stdout
    assert tenant["id"] in forecourt("tenants", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tenants", "create", "Not A Slug"), "slug"),
        (("tenants", "create", "globex", "--plan", "platinum"), "plan"),
        (("tenants", "create", "acme"), "exists"),
        (("tenants", "suspend", "nobody"), "no tenant"),
        (("tenants", "resume", "nobody"), "no tenant"),
        (("keys", "list", "nobody"), "no tenant"),
        (("keys", "create", "nobody", "--name", "x"), "no tenant"),
        (("keys", "create", "acme", "--name", "x", "--scopes", "everything"), "--scopes"),
        (("keys", "create", "acme", "--name", "x", "--scopes", "admin"), "hold: admin"),
        (("keys", "revoke", "acme", "key_nobodys"), "no such"),
        (("usage", "summary", "nobody"), "no tenant"),
        (("users", "create", "a@b.example", "--password", PASSWORD), "--tenant or --platform-role"),
        (("users", "create", "nonsense", "--tenant", "acme", "--password", PASSWORD), "e-mail"),
        (("users", "create", "a@b.example", "--tenant", "acme", "--password", "short"), "15 characters"),
        (("users", "create", "a@b.example", "--tenant", "nobody", "--password", PASSWORD), "no tenant"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    forecourt: Forecourt, arguments: tuple[str, ...], told: str
) -> None:
    forecourt("tenants", "create", "acme")
    assert told in complaint(forecourt(*arguments))
    assert [row["slug"] for row in printed(forecourt("tenants", "list", "--json"))] == ["acme"]
    assert printed(forecourt("users", "list", "--json")) == []
    assert printed(forecourt("keys", "list", "acme", "--json")) == []


def test_a_user_is_made_and_seated(forecourt: Forecourt, url: str) -> None:
    forecourt("tenants", "create", "acme")
    options = ("--tenant", "acme", "--role", "admin", "--password", PASSWORD, "--json")
    [made] = printed(forecourt("users", "create", "Ada@Example.com", *options))
    assert made["email"] == "ada@example.com"
    assert "password" not in made
    assert [row["id"] for row in printed(forecourt("users", "list", "--json"))] == [made["id"]]
    with connected(url) as connection:
        assert connection.execute(text("SELECT role FROM memberships")).scalars().all() == ["admin"]
        [stored] = connection.execute(text("SELECT password_hash FROM users")).scalars()
    assert stored.startswith("$argon2id$")
    assert "exists" in complaint(forecourt("users", "create", "ada@example.com", *options))


def test_a_password_is_asked_for_twice_and_not_shown(forecourt: Forecourt) -> None:
    forecourt("tenants", "create", "acme")
    asked = forecourt("users", "create", "a@b.example", "--tenant", "acme", typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert asked.exit_code == 0, asked.output
    assert PASSWORD not in asked.output


def test_an_operator_sits_above_all_tenants(forecourt: Forecourt) -> None:
    options = ("--platform-role", "operator", "--password", PASSWORD, "--json")
    [made] = printed(forecourt("users", "create", "op@example.com", *options))
    assert made["platform_role"] == "operator"


# Keys


def test_a_key_is_made_listed_and_revoked_and_its_secret_shown_once(forecourt: Forecourt, url: str) -> None:
    forecourt("tenants", "create", "acme")
    [made] = printed(forecourt("keys", "create", "acme", "--name", "shop", "--environment", "test", "--json"))
    presented = parse_key(made["secret"])
    assert presented is not None
    assert made["prefix"] == f"fc_test_{presented.lookup_id}"
    assert made["scopes"] == "models:read predict"
    with connected(url) as connection:
        [(stored, version)] = connection.execute(text("SELECT secret_hash, pepper_version FROM api_keys"))
    assert PepperedKeyHasher({1: PEPPER}).verify(presented.secret, stored, version)
    listed = forecourt("keys", "list", "acme", "--json")
    assert made["secret"] not in listed.output
    assert printed(listed) == [{name: value for name, value in made.items() if name != "secret"}]
    [revoked] = printed(forecourt("keys", "revoke", "acme", made["id"], "--json"))
    assert revoked["status"] == "revoked"
    assert printed(forecourt("keys", "list", "acme", "--json"))[0]["status"] == "revoked"


def test_a1_a_key_is_revoked_under_its_own_tenant_only(forecourt: Forecourt) -> None:
    for slug in ("acme", "globex"):
        forecourt("tenants", "create", slug)
    [made] = printed(forecourt("keys", "create", "acme", "--name", "shop", "--json"))
    complaint(forecourt("keys", "revoke", "globex", made["id"]))
    assert printed(forecourt("keys", "list", "acme", "--json"))[0]["status"] == "active"


def test_more_keys_than_a_page_are_all_listed(forecourt: Forecourt) -> None:
    forecourt("tenants", "create", "acme", "--plan", "free")
    for number in range(10):
        assert forecourt("keys", "create", "acme", "--name", f"key {number}").exit_code == 0
    assert len(printed(forecourt("keys", "list", "acme", "--json"))) == 10
    assert "as many API keys" in complaint(forecourt("keys", "create", "acme", "--name", "one more"))


# Usage


def test_usage_is_summed_up_by_model_and_environment(forecourt: Forecourt, url: str) -> None:
    [tenant] = printed(forecourt("tenants", "create", "acme", "--json"))
    assert printed(forecourt("usage", "summary", "acme", "--json")) == []
    now = datetime.now(UTC)
    period = period_of(now.timestamp())

    async def book() -> None:
        async with opened_books(url) as books, books.writer() as ledger:
            tenant_id = TenantId(tenant["id"])
            for units in (2, 3):
                event = an_event(tenant_id, occurred_at=now, period=period, units=units, cached_units=1)
                await ledger.append(tenant_id, event)

    asyncio.run(book())
    [line] = printed(forecourt("usage", "summary", "acme", "--json"))
    assert (line["model"], line["environment"]) == ("iris", "live")
    assert (line["events"], line["units"], line["cached_units"], line["billable_units"]) == (2, 5, 2, 2)
    assert line["start"].startswith(period)
    assert "iris" in forecourt("usage", "summary", "acme", "--bucket", "day").stdout


# Models


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fitted pipeline in a file, and a sample of its rows with the truth."""
    folder = tmp_path_factory.mktemp("pipeline")
    iris = load_iris(as_frame=True)
    frame = iris.frame.rename(columns=lambda name: name.removesuffix(" (cm)").replace(" ", "_"))
    frame["species"] = iris.target_names[iris.target]
    rows = frame[["sepal_length", "sepal_width", "petal_length", "petal_width"]]
    dump(LogisticRegression(max_iter=500).fit(rows, frame["species"]), folder / "iris.skops")
    frame.drop(columns="target").to_csv(folder / "sample.csv", index=False)
    return folder / "iris.skops", folder / "sample.csv"


def test_a_model_is_added_listed_shown_and_verified(forecourt: Forecourt, pipeline: tuple[Path, Path]) -> None:
    path, sample = map(str, pipeline)
    options = ("--name", "flowers", "--sample", sample, "--target", "species", "--alias", "stable")
    added = forecourt("models", "add", path, *options)
    assert added.exit_code == 0, added.output
    assert "accuracy" in added.stdout
    [listed] = printed(forecourt("models", "list", "--json"))
    assert (listed["name"], listed["version"], listed["task"]) == ("flowers", "1", "classification")
    shown = json.loads(forecourt("models", "show", "flowers", "1").stdout)
    assert shown["name"] == "flowers"
    assert re.search(r"[0-9a-f]{64}", json.dumps(shown))
    assert [row["verdict"] for row in printed(forecourt("models", "verify", "--json"))] == ["ok"]
    again = forecourt("models", "add", path, *options)
    assert again.exit_code == 0, again.output
    assert {row["version"] for row in printed(forecourt("models", "list", "--json"))} == {"1", "2"}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The demo models, of which iris has lost its end."""
    models = tmp_path / "damaged"
    shutil.copytree(cached_demo_models(), models)
    [artifact] = (each for each in (models / "iris").rglob("*.skops"))
    artifact.write_bytes(artifact.read_bytes()[:1000])
    return models


def test_x7_verify_finds_the_damaged_version_and_fails(forecourt: Forecourt, damaged: Path) -> None:
    answer = forecourt("models", "verify", "--json", models=str(damaged))
    assert answer.exit_code == 1
    verdicts = {row["name"]: row["verdict"] for row in json.loads(answer.stdout)}
    assert verdicts.pop("iris") != "ok"
    assert set(verdicts.values()) == {"ok"}


@pytest.mark.parametrize("version", ["1", "2", "../1"])
def test_a_model_that_is_not_there_is_one_line(forecourt: Forecourt, version: str) -> None:
    complaint(forecourt("models", "show", "nothing", version))
    assert printed(forecourt("models", "list", "--json")) == []


@pytest.mark.parametrize("name", ["Not A Name", "../escape", ""])
def test_a_model_cannot_be_added_under_a_name_that_is_none(
    forecourt: Forecourt, pipeline: tuple[Path, Path], name: str
) -> None:
    path, sample = map(str, pipeline)
    complaint(forecourt("models", "add", path, "--name", name, "--sample", sample))


def test_a_file_that_is_no_pipeline_is_one_line(
    forecourt: Forecourt, pipeline: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "x.skops").write_bytes(b"nothing")
    complaint(forecourt("models", "add", str(tmp_path / "x.skops"), "--name", "x", "--sample", str(pipeline[1])))


# Serving


def test_a_port_that_is_taken_is_one_line(forecourt: Forecourt) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in complaint(forecourt("serve", "--port", port))


def test_another_secret_than_the_databases_is_one_line(forecourt: Forecourt) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        complaint(forecourt("serve", "--port", port))  # Makes the signing key, then finds the port taken.
        other = "Zq8-Lm3_Xv6Bn1Kc9Td4Wy7Rs2Hf5Gj0Pa"
        line = complaint(forecourt("serve", "--port", port, secret_key=other))
    assert "FORECOURT_SECRET_KEY is not the one" in line
    assert other not in line


def test_a_month_is_closed_compared_stated_and_exported(forecourt: Forecourt, url: str, tmp_path: Path) -> None:
    forecourt("tenants", "create", "acme", "--plan", "pro")
    served_at = datetime(2026, 2, 3, tzinfo=UTC)

    async def use() -> None:
        [tenant] = await asyncio.to_thread(lambda: printed(forecourt("tenants", "list", "--json")))
        async with opened_books(url) as books, books.writer() as ledger:
            plan = "pln_00000000000000000000000002"
            await ledger.append(tenant["id"], an_event(tenant["id"], occurred_at=served_at, plan_id=plan))

    asyncio.run(use())
    [row, other] = printed(forecourt("usage", "reconcile", "2026-02", "--json"))
    assert (row["tenant"], row["ledger_units"], row["settled_units"], row["agrees"]) == ("acme", 2, None, True)
    assert other["environment"] == "test"
    target = tmp_path / "acme.csv"
    refused = forecourt("usage", "export", "acme", "2026-02", "--output", str(target))
    assert (refused.exit_code, target.exists()) == (1, False)
    for _ in range(2):
        assert printed(forecourt("usage", "close", "2026-02", "--json")) == [
            {"period": "2026-02", "state": "closed", "closed": 1, "failed": 0}
        ]
    [line] = printed(forecourt("usage", "statement", "acme", "2026-02", "--json"))
    assert (line["kind"], line["units"], line["amount_micros"]) == ("usage", 1, 0)
    for _ in range(2):
        done = forecourt("usage", "export", "acme", "2026-02", "--format", "csv", "--output", str(target))
        assert done.exit_code == 0
        assert done.stdout.split()[0] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert len(target.read_text().splitlines()) == 3


def test_a_month_that_is_not_over_is_tried_again_later(forecourt: Forecourt) -> None:
    this_month = datetime.now(UTC).strftime("%Y-%m")
    assert forecourt("usage", "close", this_month).exit_code == 75
    assert forecourt("usage", "close", "2026-13").exit_code == 2
    assert forecourt("usage", "close", "2020-01", "--tenant", "nobody").exit_code == 1
