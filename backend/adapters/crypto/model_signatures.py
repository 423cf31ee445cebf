"""Ed25519 over model manifests: keys of whoever may release a model, public on servers and private in the release."""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key


class UnusableSigningKey(ValueError):
    """A key is not an Ed25519 key in the form that is asked for; the text never holds any of it."""


class Ed25519ModelKeys:
    """The public keys that a server trusts."""

    def __init__(self, public_keys: Sequence[str]) -> None:
        """Take base64 of the 32 bytes of each key.

        Raises:
            UnusableSigningKey: one is something else.
        """
        self._keys = [_public(text) for text in public_keys]

    def is_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether one of the keys made a signature of a message."""
        return any(_verifies(key, message, signature) for key in self._keys)


class Ed25519ModelSigner:
    """A private key, for the command line."""

    def __init__(self, pem: bytes) -> None:
        """Take an unencrypted PKCS #8 file, as ``openssl genpkey -algorithm ed25519`` writes it.

        Raises:
            UnusableSigningKey: it is something else.
        """
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise UnusableSigningKey("The key file is not an unencrypted private key in PEM form.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UnusableSigningKey("The key file holds a key of another kind than Ed25519.")
        self._key = key

    @property
    def public_key(self) -> str:
        """The public key as servers are told it: base64 of 32 bytes."""
        return b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._key.sign(message)


def _public(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise UnusableSigningKey("A model signing key is not the base64 of the 32 bytes of an Ed25519 key.") from error


def _verifies(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
