"""Password hashes: argon2id through libpass, in a bounded pool of threads.

argon2 takes some 25 ms and 19 MiB a hash and releases the interpreter lock, so a pool of two keeps a wave of logins
from taking every core and all memory from the predictions. Its threads also stand behind every other for the
processor: with as many threads at work as there are cores, a prediction would wait for whole hashes otherwise.
"""

import asyncio
import os
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from passlib.hash import argon2

MEMORY_KIB = 19456
ROUNDS = 2
PARALLELISM = 1
NICENESS = 19


class Argon2Passwords:
    """argon2id with the parameters of the OWASP cheat sheet (m=19 MiB, t=2, p=1)."""

    def __init__(self, *, threads: int = 2, memory_kib: int = MEMORY_KIB, rounds: int = ROUNDS) -> None:
        self._hasher = argon2.using(type="ID", rounds=rounds, memory_cost=memory_kib, parallelism=PARALLELISM)
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="argon2", initializer=_give_way)
        # Compared against when there is no account, so that both answers take the same time.
        self._nobody = self._hasher.hash("nobody")

    async def hash(self, password: str) -> str:
        """Return the hash string of a password, parameters and salt inside."""
        return str(await self._run(self._hasher.hash, _normal_form(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Compare; with ``stored`` ``None`` do the same work and answer ``False``."""
        matches = await self._run(self._hasher.verify, _normal_form(password), stored or self._nobody)
        return bool(matches) and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with weaker parameters than today's."""
        return bool(self._hasher.needs_update(stored))

    def close(self) -> None:
        """Stop the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, function: object, *arguments: str) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)  # type: ignore[arg-type]


def _give_way() -> None:
    """Give this thread the lowest priority. Only Linux has one for each thread; elsewhere it stays as it is."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _normal_form(password: str) -> str:
    # The same characters may be typed in several ways (NIST SP 800-63B-4, section 3.1.1.2).
    return unicodedata.normalize("NFKC", password)
