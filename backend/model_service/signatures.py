"""Signed manifests: who vouches for a version.

``manifest.sig`` next to a manifest holds the base64 of a signature over the SHA-256 of the manifest's bytes. The
manifest holds the artifact's SHA-256, its name and its version, so that one signature covers all of a version, and is
worth nothing for another. It is checked before the manifest is parsed. Which algorithm and which keys is for whoever
composes the service; here a check is a function.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Final, TypeAlias

from backend.model_service.errors import ModelRefused

SIGNATURE: Final = "manifest.sig"
MAX_SIGNATURE_BYTES: Final = 4_096

IsSigned: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether a trusted key made a signature: takes the message and the signature."""

# Nothing else that is ever signed with the same key begins like this.
_PURPOSE: Final = b"forecourt model manifest v1\n"


def message_of(manifest: bytes) -> bytes:
    """Return what is signed of a manifest."""
    return _PURPOSE + sha256(manifest).digest()


def dump_signature(signature: bytes) -> bytes:
    """Return the file's bytes."""
    return b64encode(signature) + b"\n"


def check_signature(manifest: bytes, file: bytes, is_signed: IsSigned) -> None:
    """Check a signature file.

    Raises:
        ModelRefused: it is damaged, or no trusted key made it for this manifest.
    """
    try:
        signature = b64decode(file.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelRefused("The manifest's signature is malformed.") from error
    if not is_signed(message_of(manifest), signature):
        raise ModelRefused("The manifest's signature was made by no trusted key, or for another manifest.")
