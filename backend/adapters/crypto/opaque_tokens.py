"""Opaque tokens: random, kept only as a keyed hash, each one's successor derived from it.

The successor of a token is an HMAC of it, so that a client whose answer was lost may present the predecessor again
within the leeway and receive the very same successor, although the store holds only hashes.
"""

import base64
import hmac
import secrets
from hashlib import sha256

from backend.adapters.crypto.keys import derive_key


class HmacOpaqueTokens:
    """256-bit opaque tokens of one kind.

    Args:
        secret: the operator's; each kind has keys of its own derived from it.
        kind: what the tokens are for.
        prefix: how they begin, so that people, and what redacts logs, can tell them.
    """

    def __init__(self, secret: str, *, kind: str = "refresh-token", prefix: str = "fr_") -> None:
        self._prefix = prefix
        self._hash_key = derive_key(secret, f"{kind}-hash")
        self._successor_key = derive_key(secret, f"{kind}-successor")

    def mint(self) -> str:
        """Return a fresh token."""
        return self._written(secrets.token_bytes(32))

    def successor(self, token: str) -> str:
        """Return the one token that may follow."""
        return self._written(hmac.digest(self._successor_key, token.encode(), sha256))

    def hash(self, token: str) -> bytes:
        """Return what the store keeps."""
        return hmac.digest(self._hash_key, token.encode(), sha256)

    def _written(self, raw: bytes) -> str:
        return self._prefix + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
