"""The operator's commands about people and the platform's programs, on a database of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli import app
from tests.databases import sqlite_url

Run = Callable[..., Any]
PASSWORD = "seven purple elephants dance"


@pytest.fixture
def forecourt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command with ``--json`` and returns what it prints; or the exit code and the error when it fails."""
    monkeypatch.setenv("FORECOURT_DATABASE_URL", sqlite_url(tmp_path))
    monkeypatch.setenv("FORECOURT_SECRET_KEY", "tests-0123456789-abcdefghijklmnopqrstuv")
    monkeypatch.setenv("FORECOURT_KEY_PEPPERS", "1:tests-9876543210-zyxwvutsrqponmlkjihgfe")
    runner = CliRunner()
    assert runner.invoke(app, ["migrate"]).exit_code == 0

    def run(*arguments: str) -> Any:
        result = runner.invoke(app, [*arguments, "--json"])
        return json.loads(result.stdout) if result.exit_code == 0 else (result.exit_code, result.stderr)

    return run


def test_a_billing_reader_is_made_listed_rotated_and_deleted(forecourt: Run) -> None:
    [made] = forecourt("service-accounts", "create", "billing")
    assert made["client_id"].startswith("sa_")
    assert made["platform_role"] == "billing_reader"
    assert made["client_secret"].startswith("fs_")
    [listed] = forecourt("service-accounts", "list")
    assert listed == {name: made[name] for name in listed}
    assert "client_secret" not in listed
    [rotated] = forecourt("service-accounts", "rotate-secret", made["client_id"])
    assert rotated["generation"] == 2
    assert rotated["client_secret"] != made["client_secret"]
    forecourt("service-accounts", "delete", made["client_id"])
    assert forecourt("service-accounts", "list") == []


@pytest.mark.parametrize("verb", ["rotate-secret", "delete"])
def test_an_unknown_account_is_said_in_one_line(forecourt: Run, verb: str) -> None:
    code, error = forecourt("service-accounts", verb, "sa_none")
    assert code == 1
    assert error.strip() == "forecourt: There is no service account of the platform with this id."


def test_a_user_is_disabled_and_enabled(forecourt: Run) -> None:
    forecourt("tenants", "create", "acme")
    forecourt("users", "create", "ada@acme.example", "--tenant", "acme", "--password", PASSWORD)
    assert [user["disabled"] for user in forecourt("users", "disable", "Ada@acme.example")] == [True]
    assert [user["disabled"] for user in forecourt("users", "list")] == [True]
    assert [user["disabled"] for user in forecourt("users", "enable", "ada@acme.example")] == [False]
    assert [user["disabled"] for user in forecourt("users", "list")] == [False]


def test_an_unknown_user_is_said_in_one_line(forecourt: Run) -> None:
    code, error = forecourt("users", "disable", "nobody@acme.example")
    assert (code, error.strip()) == (1, "forecourt: There is no user with this address.")
