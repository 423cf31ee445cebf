"""Signing keys at rest: the public part in clear, the private part sealed under the operator's secret."""

from datetime import datetime

from backend.adapters.crypto.access_tokens import SigningKey, generate_signing_key
from backend.adapters.crypto.keys import Sealer
from backend.services.ports.store import StoredSigningKey


class SealingSmith:
    """Makes signing keys, and opens those that it made."""

    def __init__(self, secret: str) -> None:
        self._sealer = Sealer(secret, "signing-keys")

    def make(self, at: datetime) -> StoredSigningKey:
        """Return a fresh key pair."""
        key = generate_signing_key()
        return StoredSigningKey(
            kid=key.kid,
            public_pem=key.public_pem,
            sealed_private=self._sealer.seal((key.private_pem or "").encode(), key.kid),
            created_at=at,
            retired_at=None,
        )

    def open(self, stored: StoredSigningKey) -> SigningKey:
        """Return a key as the token issuer uses it; a retired one only verifies.

        Raises:
            cryptography.exceptions.InvalidTag: it was sealed under another secret.
        """
        private_pem = self._sealer.unseal(stored.sealed_private, stored.kid).decode()
        return SigningKey(
            kid=stored.kid,
            public_pem=stored.public_pem,
            private_pem=None if stored.retired_at else private_pem,
        )
