"""Identifiers: a prefix that says the kind, then 26 characters that sort by creation time.

The 26 characters are a ULID (https://github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in Crockford's
base 32. Identifiers are names, not secrets.
"""

import secrets
import time
from typing import NewType

TenantId = NewType("TenantId", str)
"""A tenant's id that came from a verified credential, or from the operator."""

KeyId = NewType("KeyId", str)
UserId = NewType("UserId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def new_id(prefix: str, *, at_s: float | None = None) -> str:
    """Return ``prefix_`` and a fresh ULID; ``at_s`` is seconds since the epoch, by default now."""
    value = int((time.time() if at_s is None else at_s) * 1000) << 80 | secrets.randbits(80)
    pairs = _PAIRS
    return prefix + "_" + "".join([pairs[value >> shift & 1023] for shift in range(120, -1, -10)])
