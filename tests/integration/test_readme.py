"""The README: every command in it works against a running demo, every link leads somewhere, the table is up to date."""

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.forecourt_process import Site, environment, forecourt, new_site
from tests.model_cache import cached_demo_models
from tests.settings_table import README, settings_table, table_in, with_table

PROJECT = README.parent
TEXT = README.read_text()
BLOCKS = [(kind, body) for kind, body in re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)]
SHELL = [body for kind, body in BLOCKS if kind == "sh"]
SCRIPTS = [body for body in SHELL if body.startswith("scripts/")]
COMMANDS = [body for body in SHELL if not body.startswith("scripts/")]
RUN_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with new_site(tmp_path_factory.mktemp("readme"), MODELS=str(cached_demo_models())) as site:
        yield site


@pytest.fixture(scope="module")
def outputs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block of commands printed, run one after the other in one shell, as a reader would."""
    server = site.start()
    assert server.base_url
    clone = tmp_path_factory.mktemp("clone")
    (clone / "var").symlink_to(site.folder)
    (site.folder / "venv").symlink_to(sys.prefix)
    (site.folder / "models").symlink_to(cached_demo_models())
    script = "set -eu\n" + "".join(f"{body}\necho; echo '=== end of block'\n" for body in COMMANDS)
    ended = subprocess.run(
        ("sh", "-c", script),
        cwd=clone,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
        check=False,
    )
    found = ended.stdout.split("=== end of block")
    assert ended.returncode == 0, f"{COMMANDS[len(found) - 1]}{ended.stdout[-2000:]}{ended.stderr}"
    return found


def printed_by(outputs: list[str], command: str) -> str:
    """Return what the one block printed that holds a command."""
    [output] = (output for body, output in zip(COMMANDS, outputs, strict=False) if command in body)
    return output


def documents(output: str) -> list[Any]:
    """Return the JSON documents that an output consists of."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while match := re.compile(r"\s*(?=[{\[])").match(output, place):
        content, place = decoder.raw_decode(output, match.end())
        found.append(content)
    return found


@pytest.mark.process
def test_a_customers_commands_give_predictions(outputs: list[str]) -> None:
    first, second = documents(printed_by(outputs, "/v1/models/iris/predict"))
    assert [row["label"] for row in first["predictions"]] == ["setosa"]
    assert [row["label"] for row in second["predictions"]] == ["virginica"]
    again = printed_by(outputs, "Idempotency-Key")
    for name in ("ratelimit:", "x-quota-remaining:", "cache-status: forecourt"):
        assert name in again.lower()
    assert '"name":"diabetes"' in again


@pytest.mark.process
def test_an_admins_commands_make_a_key_and_show_what_was_used(outputs: list[str]) -> None:
    profile, members = documents(printed_by(outputs, "/v1/me"))
    assert profile["role"] == "owner"
    assert len(members["data"]) >= 1
    [shown] = documents(printed_by(outputs, "MADE="))
    assert (shown["name"], shown["scopes"], shown["models"]) == ("checkout", ["predict"], ["iris"])
    assert "secret" not in shown
    summary, events, revoked, audit = documents(printed_by(outputs, "/v1/usage/summary"))
    assert summary["totals"]["units"] == 3, "the customer's own three rows"
    assert len(events["data"]) == 3
    assert (revoked["id"], revoked["status"]) == (shown["id"], "revoked")
    assert audit["data"][0]["action"] == "api-key.revoked"


@pytest.mark.process
def test_a_webhook_inside_the_network_is_refused(outputs: list[str]) -> None:
    refused, listed = documents(printed_by(outputs, "/v1/webhooks"))
    assert refused["code"] == "url-not-allowed"
    assert listed == {"data": [], "has_more": False, "next_cursor": None}


@pytest.mark.process
def test_an_operators_commands_show_the_house_and_add_a_customer(outputs: list[str]) -> None:
    shown = printed_by(outputs, "tenants list")
    for word in ("acme", "globex", "iris", "diabetes", '"status":"ready"'):
        assert word in shown
    made = printed_by(outputs, "tenants create")
    assert "umbrella-" in made
    assert re.search(r"fc_live_\w{12}_\w{38}", made)
    assert "suspended" in made
    assert "billable_units" in made


@pytest.mark.process
def test_a_billing_jobs_commands_close_a_month(outputs: list[str], site: Site) -> None:
    events, closing, closed = documents(printed_by(outputs, "JOB="))
    assert events["data"]
    assert (closing["state"], closed["state"]) == ("closed", "closed")
    assert closed["tenants"]["open"] == 0
    assert closed["period"] == closing["period"]
    by_cron = printed_by(outputs, "usage reconcile")
    assert f'"period": "{closed["period"]}"' in by_cron
    exported = site.folder / f"acme-{closed['period']}.csv"
    assert hashlib.sha256(exported.read_bytes()).hexdigest() in by_cron


def test_every_block_of_commands_is_known_here() -> None:
    """A new block has to be looked at by one of the tests above, or be a script."""
    assert len(SCRIPTS) == 2
    assert len(COMMANDS) == 11


# Scripts


def test_every_script_that_is_named_exists_and_can_be_run() -> None:
    named = set(re.findall(r"scripts/(\w+)", TEXT))
    assert {"run", "test", "check"} <= named
    for name in named:
        path = PROJECT / "scripts" / name
        assert os.access(path, os.X_OK), name
        if "python" in path.read_text().partition("\n")[0]:
            compile(path.read_text(), name, "exec")
        else:
            assert subprocess.run(("sh", "-n", str(path)), check=False).returncode == 0, name


def test_the_options_that_are_named_exist() -> None:
    described = re.search(r"Options:\n?(.*?)\.", TEXT, re.DOTALL)
    assert described
    options = re.findall(r"`(--\w+)`", described[1])
    assert len(options) == 3
    shown = forecourt("demo", "--help").stdout
    assert all(option in shown for option in options)


# The rest


def test_the_table_of_settings_is_up_to_date() -> None:
    assert table_in(TEXT) == settings_table(), "python -m tests.settings_table writes it"
    assert with_table(TEXT, settings_table()) == TEXT


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PROJECT / target.split("#")[0]).exists(), target
    for address in re.findall(r"https?://[^\s>)`\"]+", TEXT):
        assert address.startswith("http://127.0.0.1:8000"), address


def test_every_path_of_the_tree_exists() -> None:
    [tree] = (body for kind, body in BLOCKS if kind == "text")
    root = PROJECT
    for line in tree.splitlines():
        for name in re.findall(r"[\w.]+/|\w+\.py", line.split("  ")[0] if not line.startswith(" ") else line):
            inner = root / "backend" / name if line.startswith(" ") else root / name
            assert inner.exists(), name


def test_the_diagram_names_the_floors() -> None:
    [diagram] = (body for kind, body in BLOCKS if kind == "mermaid")
    assert diagram.startswith("flowchart")
    for floor in ("api", "services", "adapters", "model_service", "domain"):
        assert floor in diagram
    opened, closed = (len(re.findall(rf"^\s*{word}\b", diagram, re.MULTILINE)) for word in ("subgraph", "end"))
    assert opened == closed


def test_every_path_of_the_api_that_is_named_is_served(site: Site, outputs: list[str]) -> None:
    served = json.dumps(served_paths(site))
    for path in set(re.findall(r"\$BASE(/[\w/.-]+)", TEXT)):
        assert re.sub(r"/(iris|diabetes)", "/{model}", path) in served or path in served, path


def served_paths(site: Site) -> list[str]:
    address = json.loads((site.folder / "demo.json").read_text())["base_url"]
    with urllib.request.urlopen(f"{address}/openapi.json", timeout=30) as answer:
        return [*json.load(answer)["paths"], "/readyz"]
