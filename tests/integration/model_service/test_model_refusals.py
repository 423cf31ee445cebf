"""What is wrong with a version's files is found by the service before a byte is parsed, and said; the others serve."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import joblib
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backend.adapters.crypto.model_signatures import Ed25519ModelKeys, Ed25519ModelSigner
from backend.domain.errors import ModelUnavailable
from backend.domain.models import ModelRef
from backend.model_service import ModelService
from backend.model_service.manifest_reading import MAX_MANIFEST_BYTES
from backend.model_service.repository import MAX_ARTIFACT_BYTES, ModelRepository

pytestmark = pytest.mark.anyio


def signer() -> Ed25519ModelSigner:
    key = Ed25519PrivateKey.generate()
    return Ed25519ModelSigner(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.skops").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.skops").write_bytes(bytes(data))


def cut_short(folder: Path) -> None:
    os.truncate(folder / "model.skops", 100)


def blow_up(folder: Path) -> None:
    os.truncate(folder / "model.skops", MAX_ARTIFACT_BYTES + 1)  # a hole: it takes no room


def blow_up_the_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", MAX_MANIFEST_BYTES + 1)


def exchange_the_artifact(folder: Path) -> None:
    (folder / "model.skops").write_bytes((folder.parent / "1" / "model.skops").read_bytes())


def tamper_with_the_manifest(folder: Path) -> None:
    document = orjson.loads((folder / "manifest.json").read_bytes())
    document["metrics"]["accuracy"] = 1.0
    (folder / "manifest.json").write_bytes(orjson.dumps(document))


def exchange_artifact_and_digest(folder: Path) -> None:
    exchange_the_artifact(folder)
    document = orjson.loads((folder / "manifest.json").read_bytes())
    document["sha256"] = sha256((folder / "model.skops").read_bytes()).hexdigest()
    (folder / "manifest.json").write_bytes(orjson.dumps(document))


def break_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def take_the_signature_away(folder: Path) -> None:
    (folder / "manifest.sig").unlink()


def take_another_versions_signature(folder: Path) -> None:
    (folder / "manifest.sig").write_bytes((folder.parent / "1" / "manifest.sig").read_bytes())


def be_another_version(folder: Path) -> None:
    for name in ("manifest.json", "manifest.sig", "model.skops"):
        (folder / name).write_bytes((folder.parent / "1" / name).read_bytes())


NOT_SIGNED = "The manifest's signature was made by no trusted key, or for another manifest."


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "The artifact's SHA-256 is not the one in the manifest."),
        (cut_short, "The artifact's SHA-256 is not the one in the manifest."),
        (exchange_the_artifact, "The artifact's SHA-256 is not the one in the manifest."),
        (blow_up, f"The artifact is larger than {MAX_ARTIFACT_BYTES} bytes."),
        (blow_up_the_manifest, f"The manifest is larger than {MAX_MANIFEST_BYTES} bytes."),
        (take_the_signature_away, "The manifest's signature is missing."),
        (take_another_versions_signature, NOT_SIGNED),
        (tamper_with_the_manifest, NOT_SIGNED),
        (exchange_artifact_and_digest, NOT_SIGNED),
        (break_the_manifest, NOT_SIGNED),  # not that it is no JSON: it is not parsed
        (be_another_version, "The manifest names another model or version than its folder."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_a_version_is_refused_with_its_reason_and_the_others_serve(
    models: Path, damage: Callable[[Path], None], reason: str
) -> None:
    release = signer()
    for name, version in (("iris", "1"), ("iris", "2"), ("forest", "1")):
        ModelRepository(models).sign(name, version, release.sign)
    damage(models / "iris" / "2")
    service = await ModelService.open(models, is_signed=Ed25519ModelKeys([release.public_key]).is_signed)
    assert {each.name: each.failed for each in service.list()} == {"forest": {}, "iris": {"2": reason}}
    with pytest.raises(ModelUnavailable) as caught:
        service.resolve(ModelRef.parse("iris@2"))
    assert str(models) not in caught.value.detail
    for reference in ("iris@1", "forest"):
        assert service.resolve(ModelRef.parse(reference)).info.version == "1"
    await service.aclose()


class Trap:
    """Leaves a mark when it is read from a pickle."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._mark),)


@pytest.mark.parametrize(("registered", "sprung"), [(False, False), (True, True)], ids=["exchanged", "as registered"])
async def test_an_artifact_is_not_read_where_its_digest_is_wrong(
    models: Path, tmp_path: Path, registered: bool, sprung: bool
) -> None:
    mark = tmp_path / "mark"
    folder = models / "iris" / "2"
    joblib.dump(Trap(mark), folder / "model.joblib")
    document = orjson.loads((folder / "manifest.json").read_bytes()) | {"format": "joblib", "artifact": "model.joblib"}
    if registered:
        document["sha256"] = sha256((folder / "model.joblib").read_bytes()).hexdigest()
    (folder / "manifest.json").write_bytes(orjson.dumps(document))
    service = await ModelService.open(models, allow_pickle=True)
    assert mark.exists() is sprung
    assert service.resolve(ModelRef.parse("iris")).info.version == "1"
    await service.aclose()
