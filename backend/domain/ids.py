"""Identifiers: a prefix that says the kind, then 26 characters that sort by creation time.

The 26 characters are a ULID (https://github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in Crockford's
base 32. Identifiers are names, not secrets.
"""

import os
import random
import time
from collections import deque
from functools import lru_cache
from typing import NewType

TenantId = NewType("TenantId", str)
"""A tenant's id that came from a verified credential, or from the operator."""

KeyId = NewType("KeyId", str)
UserId = NewType("UserId", str)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
# A byte stands for each character eight times over.
_CHARACTER_OF_BYTE = (_ALPHABET * 8).encode()
# Names need no secure source, which is a system call each time. A forked process must not repeat its parent's.
_chance = random.Random()
_CHARACTERS = 16
_AT_A_TIME = 256
_ready: deque[str] = deque()
"""Random halves, worked out many at a time: one by one they cost three times as much."""


def _begin_anew() -> None:
    _chance.seed()
    _ready.clear()


os.register_at_fork(after_in_child=_begin_anew)


def new_id(prefix: str, *, at_s: float | None = None) -> str:
    """Return ``prefix_`` and a fresh ULID; ``at_s`` is seconds since the epoch, by default now."""
    written = _written(int((time.time() if at_s is None else at_s) * 1000))
    while True:
        try:
            return f"{prefix}_{written}{_ready.pop()}"
        except IndexError:
            # Any number of threads may come here: each fills for all.
            drawn = _chance.randbytes(_AT_A_TIME * _CHARACTERS).translate(_CHARACTER_OF_BYTE).decode()
            _ready.extend([drawn[at : at + _CHARACTERS] for at in range(0, len(drawn), _CHARACTERS)])


@lru_cache(maxsize=4)
def _written(at_ms: int) -> str:
    # Requests share their milliseconds.
    return "".join([_PAIRS[at_ms >> shift & 1023] for shift in (40, 30, 20, 10, 0)])
