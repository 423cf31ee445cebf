"""Keyed hashes of API key secrets. They have 190 random bits, so one HMAC is enough: nobody can guess them.

A pepper is rotated by adding a higher version: new secrets take it, and a stored hash stays under its own until the
key's secret is rotated. Hashes are not moved over when a secret is seen: a replica that does not know the new pepper
yet would refuse keys that it accepted a moment ago.
"""

import hmac
from collections.abc import Mapping
from hashlib import sha256


class PepperedKeyHasher:
    """HMAC-SHA-256 under a versioned pepper; new hashes take the highest version."""

    def __init__(self, peppers: Mapping[int, str]) -> None:
        if not peppers:
            raise ValueError("at least one pepper is needed")
        self._peppers = {version: pepper.encode() for version, pepper in peppers.items()}
        self._newest = max(self._peppers)

    def hash(self, secret: str) -> tuple[bytes, int]:
        """Return the hash under the newest pepper, and that pepper's version."""
        return hmac.digest(self._peppers[self._newest], secret.encode(), sha256), self._newest

    def verify(self, secret: str, stored: bytes, pepper_version: int) -> bool:
        """Compare in constant time; a pepper that was taken away verifies nothing."""
        pepper = self._peppers.get(pepper_version)
        if pepper is None:
            return False
        return hmac.compare_digest(hmac.digest(pepper, secret.encode(), sha256), stored)
