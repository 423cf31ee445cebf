"""With keys configured, a version that no trusted key vouches for is never loaded; the others serve."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backend.adapters.crypto.model_signatures import Ed25519ModelKeys, Ed25519ModelSigner
from backend.domain.errors import ModelUnavailable
from backend.domain.models import ModelRef
from backend.model_service import ModelService
from backend.model_service.repository import ModelRepository

pytestmark = pytest.mark.anyio


def signer() -> Ed25519ModelSigner:
    key = Ed25519PrivateKey.generate()
    return Ed25519ModelSigner(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


async def test_only_signed_versions_are_served_and_a_late_signature_is_seen(models: Path) -> None:
    release = signer()
    repository = ModelRepository(models)
    repository.sign("iris", "1", release.sign)
    repository.sign("forest", "1", signer().sign)
    service = await ModelService.open(models, is_signed=Ed25519ModelKeys([release.public_key]).is_signed)
    assert service.resolve(ModelRef("iris", None)).info.version == "1"
    failed = {summary.name: summary.failed for summary in service.list()}
    assert failed == {
        "forest": {"1": "The manifest's signature was made by no trusted key, or for another manifest."},
        "iris": {"2": "The manifest's signature is missing."},
    }
    with pytest.raises(ModelUnavailable):
        service.resolve(ModelRef("forest", None))
    repository.sign("iris", "2", release.sign)
    await service.refresh()
    assert service.resolve(ModelRef("iris", None)).info.version == "2"
    await service.aclose()
