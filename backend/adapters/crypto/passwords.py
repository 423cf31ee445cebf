"""Password hashes: argon2id through libpass, in processes beside this one.

argon2 takes some 25 ms and 19 MiB a hash. A bounded number of processes, which stand behind every other for the
processor, keep a wave of logins from taking the cores and the memory from the predictions. The rest of a login has its
price too, on the event loop and in the database: logins take turns, a few at a time.
"""

import asyncio
import os
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from passlib.hash import argon2

from backend.adapters.crypto.password_processes import PasswordProcesses
from backend.domain.errors import Overloaded

MEMORY_KIB = 19456
ROUNDS = 2
PARALLELISM = 1
MOST_ASKING = 128
WITHIN_S = 30.0
MANY_CORES = 4


class Argon2Passwords:
    """argon2id with the parameters of the OWASP cheat sheet (m=19 MiB, t=2, p=1).

    Args:
        processes: how many hash at a time; unless told, one, and a second one where there are cores to spare.
        most_asking: how many callers may be served or wait at a time; a further one is refused at once. As many may
            have a turn, or wait for one.
        within_s: how long a caller waits at the most.
    """

    def __init__(
        self,
        *,
        processes: int | None = None,
        most_asking: int = MOST_ASKING,
        within_s: float = WITHIN_S,
        memory_kib: int = MEMORY_KIB,
        rounds: int = ROUNDS,
    ) -> None:
        self._parameters = {"memory_kib": memory_kib, "rounds": rounds, "parallelism": PARALLELISM}
        self._hasher = argon2.using(type="ID", rounds=rounds, memory_cost=memory_kib, parallelism=PARALLELISM)
        processes = processes or _processes_here()
        self._processes = PasswordProcesses(most=processes, most_asking=most_asking, within_s=within_s)
        # While the processes hash for some, one more reads what to compare with, or writes what came of it.
        self._turns = asyncio.Semaphore(processes + 1)
        self._most_in_line = most_asking
        self._within_s = within_s
        self._in_line = 0
        # Compared against when there is no account, so that both answers take the same time. Random: it is the hash
        # of no password that anybody knows.
        nobody = self._hasher(salt=os.urandom(16), checksum=os.urandom(32), use_defaults=True)
        self._nobody = str(nobody.to_string())

    @property
    def pids(self) -> set[int]:
        """Return the ids of the processes there are."""
        return self._processes.pids

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one of the few turns there are at a time, and hold it for the block.

        Raises:
            Overloaded: too many are in line already, or it took too long.
        """
        if self._in_line >= self._most_in_line:
            raise Overloaded("Too many are signing in at the moment.")
        self._in_line += 1
        try:
            try:
                async with asyncio.timeout(self._within_s):
                    await self._turns.acquire()
            except TimeoutError:
                raise Overloaded("Too many are signing in at the moment.") from None
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._in_line -= 1

    async def hash(self, password: str) -> str:
        """Return the hash string of a password, parameters and salt inside.

        Raises:
            Overloaded, Unavailable: it cannot be computed now.
        """
        return str((await self._ask(password, None))["hash"])

    async def verify(self, password: str, stored: str | None) -> bool:
        """Compare; with ``stored`` ``None`` do the same work and answer ``False``.

        Raises:
            Overloaded, Unavailable: it cannot be computed now.
        """
        answer = await self._ask(password, stored or self._nobody)
        return bool(answer["matches"]) and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with weaker parameters than today's."""
        return bool(self._hasher.needs_update(stored))

    def close(self) -> None:
        """End the processes."""
        self._processes.close()

    async def _ask(self, password: str, stored: str | None) -> dict[str, object]:
        return await self._processes.ask({"password": _normal_form(password), "stored": stored, **self._parameters})


def _processes_here() -> int:
    return 2 if (os.cpu_count() or 1) >= MANY_CORES else 1


def _normal_form(password: str) -> str:
    # The same characters may be typed in several ways (NIST SP 800-63B-4, section 3.1.1.2).
    return unicodedata.normalize("NFKC", password)
