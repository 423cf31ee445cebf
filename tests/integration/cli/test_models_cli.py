"""``forecourt models``: what an operator sees, and the status a script goes by."""

import json
import os
import sqlite3
from base64 import b64encode
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner, Result

from backend.cli.models import app
from backend.model_service.aliases import WeightedVersion
from backend.model_service.artifacts import dump_artifact
from backend.model_service.manifest import ArtifactFormat
from backend.model_service.repository import ModelRepository
from tests.databases import migrated_sqlite


class Operator:
    """Calls commands on a folder of models with the model ``prices`` in two versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        database = migrated_sqlite(folder)
        self.environment = {
            "FORECOURT_ENVIRONMENT": "demo",
            "FORECOURT_MODELS": str(self.models),
            "FORECOURT_DATABASE_URL": database,
        }
        data = np.arange(30.0).reshape(10, 3)
        (folder / "prices.skops").write_bytes(
            dump_artifact(LinearRegression().fit(data, data.sum(axis=1)), ArtifactFormat.SKOPS)
        )
        pd.DataFrame(data, columns=list("abc")).to_csv(folder / "rows.csv", index=False)

    def __call__(self, *arguments: str) -> Result:
        # None takes a variable away that the environment of the tests may hold.
        cleared = {name: None for name in os.environ if name.startswith("FORECOURT_")}
        return CliRunner().invoke(app, list(arguments), env={**cleared, **self.environment})

    def add(self, *options: str) -> Result:
        return self(
            "add", f"{self.folder}/prices.skops", "--name", "prices", "--sample", f"{self.folder}/rows.csv", *options
        )

    def recorded(self) -> list[tuple[str, str, str]]:
        """The audit log of the platform: who did what to what."""
        with sqlite3.connect(self.folder / "forecourt.db") as connection:
            query = "SELECT actor_kind, action, target_id FROM audit_log WHERE tenant_id = 'platform' ORDER BY sequence"
            return list(connection.execute(query))

    def key(self, name: str = "release") -> tuple[Path, str]:
        """A new private key as a file, and its public key as a server is told it."""
        private = Ed25519PrivateKey.generate()
        path = self.folder / f"{name}.pem"
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path, b64encode(private.public_key().public_bytes_raw()).decode()

    def verdicts(self) -> dict[str, str]:
        found = self("verify", "--json")
        rows = json.loads(found.stdout)
        assert found.exit_code == (0 if all(row["verdict"] == "ok" for row in rows) else 1)
        return {row["version"]: row["verdict"] for row in rows}


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    operator = Operator(tmp_path)
    for _ in range(2):
        assert operator.add().exit_code == 0
    return operator


def test_add_prints_what_the_gate_measured(operator: Operator) -> None:
    printed = operator.add()
    assert printed.exit_code == 0
    assert "What the parity gate measured" in printed.stdout
    for name in ("folded-linear", "treelite", "scikit-learn", "unsuited"):
        assert name in printed.stdout
    listed = json.loads(operator("list", "--json").stdout)
    assert [row["version"] for row in listed] == ["3", "2", "1"]
    runner = json.loads(operator("show", "prices", "3").stdout)["runner"]
    assert {each["name"] for each in runner["candidates"]} == {
        *("folded-linear", "treelite", "onnxruntime", "scikit-learn")
    }


def test_a_whole_folder_verifies(operator: Operator) -> None:
    assert operator.verdicts() == {"1": "ok", "2": "ok"}


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("model.skops", lambda data: data[:-1] + b"x", "SHA-256 is not the one"),
        ("model.skops", lambda data: data[:50], "SHA-256 is not the one"),
        ("manifest.json", lambda data: data[:50], "not valid JSON"),
        ("manifest.json", lambda data: data + b" " * 5_000_000, "larger than"),
        ("manifest.json", lambda data: data.replace(b'"version": "1"', b'"version": "2"'), "another model or version"),
    ],
    ids=["tampered", "truncated", "damaged", "oversized", "wrong version"],
)
def test_a_version_that_does_not_hold_fails_verify(operator: Operator, file: str, change: object, reason: str) -> None:
    path = operator.models / "prices" / "1" / file
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    found = operator.verdicts()
    assert reason in found["1"]
    assert found["2"] == "ok"


def test_a_version_of_another_release_of_scikit_learn_is_told(operator: Operator) -> None:
    path = operator.models / "prices" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["library_versions"]["scikit-learn"] = "1.2.2"
    path.write_text(json.dumps(manifest))
    said = operator.verdicts()
    assert said.pop("2") == "ok"
    assert said["1"].startswith("The version was registered with scikit-learn 1.2.2, and ")
    listed = json.loads(operator("list", "--json").stdout)
    assert {row["version"]: row["problem"] for row in listed} == {"1": said["1"], "2": ""}
    assert operator("show", "prices", "1").exit_code == 0


def test_with_signing_keys_only_signed_versions_hold(operator: Operator) -> None:
    path, public = operator.key()
    _, other = operator.key("other")
    operator.environment["FORECOURT_MODEL_SIGNING_KEYS"] = f"{other}, {public}"
    assert operator.verdicts() == dict.fromkeys(("1", "2"), "The manifest's signature is missing.")
    signed = operator("sign", "prices", "1", "--key", str(path))
    assert signed.exit_code == 0
    assert public in signed.stdout
    assert operator.verdicts() == {"1": "ok", "2": "The manifest's signature is missing."}
    assert operator("show", "prices", "2").exit_code == 1
    assert "not served until it is signed" in operator.add().stdout


def test_a_signature_of_another_key_version_or_manifest_does_not_count(operator: Operator) -> None:
    path, public = operator.key()
    stranger, _ = operator.key("stranger")
    operator.environment["FORECOURT_MODEL_SIGNING_KEYS"] = public
    prices = operator.models / "prices"
    operator("sign", "prices", "1", "--key", str(stranger))
    assert "made by no trusted key" in operator.verdicts()["1"]
    operator("sign", "prices", "1", "--key", str(path))
    (prices / "2" / "manifest.sig").write_bytes((prices / "1" / "manifest.sig").read_bytes())
    assert "for another manifest" in operator.verdicts()["2"]
    manifest = prices / "1" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"nullable": false', b'"nullable": true'))
    assert "for another manifest" in operator.verdicts()["1"]
    (prices / "1" / "manifest.sig").write_bytes(b"\xff not base64")
    assert "malformed" in operator.verdicts()["1"]


def test_what_is_not_whole_is_not_signed(operator: Operator) -> None:
    path, _ = operator.key()
    (operator.models / "prices" / "1" / "model.skops").write_bytes(b"")
    refused = operator("sign", "prices", "1", "--key", str(path))
    assert refused.exit_code == 1
    assert "SHA-256" in refused.stderr
    assert operator("sign", "prices", "9", "--key", str(path)).exit_code == 1


def test_a_key_of_another_kind_is_refused(operator: Operator) -> None:
    path = operator.folder / "ec.pem"
    key = generate_private_key(SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "another kind than Ed25519" in operator("sign", "prices", "1", "--key", str(path)).stderr
    path.write_text("no key")
    assert "PEM form" in operator("sign", "prices", "1", "--key", str(path)).stderr
    operator.environment["FORECOURT_MODEL_SIGNING_KEYS"] = "c2hvcnQ="
    refused = operator("verify")
    assert refused.exit_code == 1
    assert "FORECOURT_MODEL_SIGNING_KEYS: A model signing key is not" in refused.stderr


def test_an_alias_is_set_weighted_and_removed(operator: Operator) -> None:
    repository = ModelRepository(operator.models)
    assert operator("alias", "prices", "stable", "1").exit_code == 0
    assert operator("alias", "prices", "canary", "1=95", "2=5").exit_code == 0
    assert repository.aliases("prices") == {
        "stable": (WeightedVersion("1", 1),),
        "canary": (WeightedVersion("1", 95), WeightedVersion("2", 5)),
    }
    assert operator("alias", "prices", "stable", "--remove").exit_code == 0
    assert set(repository.aliases("prices")) == {"canary"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["prices", "7", "1"], "not a number"),
        (["prices", "stable", "9"], "a version that the model does not have"),
        (["prices", "shadow", "1", "2"], "Must be one version"),
        (["prices", "nothing", "--remove"], "no such alias"),
        (["prices", "stable", "1=0"], "above zero"),
        (["prices", "stable"], "Name the versions"),
        (["prices", "stable", "1", "--remove"], "Name the versions"),
        (["costs", "stable", "1"], "no such model"),
    ],
)
def test_a_wrong_alias_is_refused(operator: Operator, arguments: list[str], reason: str) -> None:
    refused = operator("alias", *arguments)
    assert refused.exit_code == 1
    assert reason in refused.stderr


def test_a_version_is_removed_unless_an_alias_points_at_it(operator: Operator) -> None:
    operator("alias", "prices", "stable", "1")
    refused = operator("remove", "prices", "1")
    assert refused.exit_code == 1
    assert "alias stable points at version 1" in refused.stderr
    assert operator("remove", "prices", "2").exit_code == 0
    assert [path.name for path in sorted((operator.models / "prices").iterdir())] == [".lock", "1", "aliases.json"]
    assert operator("remove", "prices", "2").exit_code == 1


def test_a_version_is_unloaded_and_loaded_again(operator: Operator) -> None:
    assert operator("unload", "prices", "2").exit_code == 0
    listed = json.loads(operator("list", "--json").stdout)
    assert {row["version"]: row["problem"] for row in listed} == {"1": "", "2": "unloaded"}
    refused = operator("alias", "prices", "stable", "2")
    assert refused.exit_code == 1
    assert "unloaded" in refused.stderr
    assert operator("load", "prices", "2").exit_code == 0
    assert ModelRepository(operator.models).unloaded("prices") == frozenset()
    operator("alias", "prices", "stable", "2")
    assert "An alias points at this version" in operator("unload", "prices", "2").stderr
    assert operator("unload", "prices", "9").exit_code == 1


def test_each_change_leaves_one_record_and_what_was_refused_leaves_none(operator: Operator) -> None:
    before = [("operator", "model.added", "prices@1"), ("operator", "model.added", "prices@2")]
    assert operator.recorded() == before
    operator.add("--alias", "beta")
    for command in (
        ("alias", "prices", "stable", "1"),
        ("alias", "prices", "stable", "1"),  # changes nothing
        ("alias", "prices", "stable", "9"),  # is refused
        ("unload", "prices", "1"),  # is refused
        ("alias", "prices", "stable", "--remove"),
        ("unload", "prices", "2"),
        ("unload", "prices", "2"),  # changes nothing
        ("load", "prices", "2"),
        ("remove", "prices", "3"),  # is refused
        ("remove", "prices", "2"),
    ):
        operator(*command)
    assert operator.recorded()[2:] == [
        ("operator", action, target)
        for action, target in [
            ("model.added", "prices@3"),
            ("model-alias.set", "prices@beta"),
            ("model-alias.set", "prices@stable"),
            ("model-alias.removed", "prices@stable"),
            ("model.unloaded", "prices@2"),
            ("model.loaded", "prices@2"),
            ("model.removed", "prices@2"),
        ]
    ]


def test_nothing_is_changed_that_cannot_be_recorded(operator: Operator) -> None:
    operator.environment["FORECOURT_DATABASE_URL"] = f"sqlite+aiosqlite:///{operator.folder / 'empty.db'}"
    refused = operator("alias", "prices", "stable", "1")
    assert refused.exit_code == 1
    assert "migrate" in refused.stderr
    assert operator.add().exit_code == 1
    assert ModelRepository(operator.models).aliases("prices") == {}
    assert ModelRepository(operator.models).versions("prices") == ("2", "1")


def test_pickle_is_taken_only_where_the_operator_allows_it(operator: Operator) -> None:
    pickled = operator.folder / "prices.joblib"
    data = np.arange(30.0).reshape(10, 3)
    pickled.write_bytes(dump_artifact(LinearRegression().fit(data, data.sum(axis=1)), ArtifactFormat.JOBLIB))
    arguments = ("add", str(pickled), "--name", "prices", "--sample", f"{operator.folder}/rows.csv")
    refused = operator(*arguments)
    assert refused.exit_code == 1
    assert "pickle is not allowed here" in refused.stderr
    operator.environment["FORECOURT_ALLOW_PICKLE_MODELS"] = "true"
    assert operator(*arguments).exit_code == 0
    # What skops can hold is kept as skops all the same.
    assert json.loads(operator("show", "prices", "3").stdout)["format"] == "skops"


def test_commands_work_on_a_repository_at_a_url(operator: Operator) -> None:
    operator.environment["FORECOURT_MODELS"] = f"memory://{uuid4().hex}"
    operator.environment["FORECOURT_MODELS_CACHE"] = str(operator.folder / "cache")
    for _ in range(2):
        assert operator.add().exit_code == 0
    path, public = operator.key()
    operator.environment["FORECOURT_MODEL_SIGNING_KEYS"] = public
    assert operator("sign", "prices", "1", "--key", str(path)).exit_code == 0
    assert operator.verdicts() == {"1": "ok", "2": "The manifest's signature is missing."}
    for command in (("alias", "prices", "stable", "1"), ("unload", "prices", "2"), ("remove", "prices", "2")):
        assert operator(*command).exit_code == 0, command
    assert "stable" in operator("remove", "prices", "1").stderr
    assert [row["version"] for row in json.loads(operator("list", "--json").stdout)] == ["1"]


def test_a_store_that_does_not_answer_is_one_line(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "loopback-only")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    operator.environment["FORECOURT_MODELS"] = "s3://store/models"
    for command in (
        ("list",), ("verify",), ("show", "prices", "1"), ("alias", "prices", "stable", "1"), ("unload", "prices", "1"),
        ("alias", "prices", "stable", "--remove"), ("remove", "prices", "1"), ("load", "prices", "1"),
    ):  # fmt: skip
        refused = operator(*command)
        assert refused.exit_code == 1, command
        assert "cannot be read" in refused.stderr, command
        assert len(refused.stderr.splitlines()) == 1
    assert "cannot be read" in operator.add().stderr
    operator.environment["FORECOURT_MODELS"] = "nothing://store/models"
    assert "FORECOURT_MODELS is not a URL" in operator("list").stderr
