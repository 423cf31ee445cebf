"""Refresh tokens: random, kept only as a keyed hash, each one's successor derived from it.

The successor of a token is an HMAC of it, so that a client whose answer was lost may present the predecessor again
within the leeway and receive the very same successor, although the store holds only hashes.
"""

import base64
import hmac
import secrets
from hashlib import sha256

from backend.adapters.crypto.keys import derive_key


def _written(raw: bytes) -> str:
    return "fr_" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class HmacOpaqueTokens:
    """256-bit opaque tokens."""

    def __init__(self, secret: str) -> None:
        self._hash_key = derive_key(secret, "refresh-token-hash")
        self._successor_key = derive_key(secret, "refresh-token-successor")

    def mint(self) -> str:
        """Return a fresh token."""
        return _written(secrets.token_bytes(32))

    def successor(self, token: str) -> str:
        """Return the one token that may follow."""
        return _written(hmac.digest(self._successor_key, token.encode(), sha256))

    def hash(self, token: str) -> bytes:
        """Return what the store keeps."""
        return hmac.digest(self._hash_key, token.encode(), sha256)
