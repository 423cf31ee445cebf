"""Derives one key for each purpose from the operator's secret, so that no value is ever used for two things."""

import secrets

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive_key(secret: str, purpose: str) -> bytes:
    """Return 32 bytes for a purpose (HKDF-SHA-256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=32, salt=b"forecourt", info=purpose.encode()).derive(secret.encode())


class Sealer:
    """Encrypts what has to be kept and read again, bound to a name (AES-256-GCM, random 96-bit nonce)."""

    def __init__(self, secret: str, purpose: str) -> None:
        self._cipher = AESGCM(derive_key(secret, purpose))

    def seal(self, plain: bytes, name: str) -> bytes:
        """Return the nonce and the ciphertext."""
        nonce = secrets.token_bytes(12)
        return nonce + self._cipher.encrypt(nonce, plain, name.encode())

    def unseal(self, sealed: bytes, name: str) -> bytes:
        """Return the plain bytes.

        Raises:
            cryptography.exceptions.InvalidTag: another secret sealed it, or it was changed.
        """
        return self._cipher.decrypt(sealed[:12], sealed[12:], name.encode())
