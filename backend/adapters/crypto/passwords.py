"""Password hashes: argon2id through libpass, in processes beside this one.

argon2 takes some 25 ms and 19 MiB a hash. A bounded number of processes, which stand behind every other for the
processor, keep a wave of logins from taking the cores and the memory from the predictions. The rest of a login has its
price too: see ``adapters/memory/precedence.py``.
"""

import os
import unicodedata

from passlib.hash import argon2

from backend.adapters.crypto.password_processes import PasswordProcesses

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
        most_asking: how many callers may be served or wait at a time; a further one is refused at once.
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
        self.processes = processes or _processes_here()
        self._pool = PasswordProcesses(most=self.processes, most_asking=most_asking, within_s=within_s)
        # Compared against when there is no account, so that both answers take the same time. Random: it is the hash
        # of no password that anybody knows.
        nobody = self._hasher(salt=os.urandom(16), checksum=os.urandom(32), use_defaults=True)
        self._nobody = str(nobody.to_string())
        self._spelling = self._nobody.rsplit("$", 2)[0] + "$"

    @property
    def pids(self) -> set[int]:
        """Return the ids of the processes there are."""
        return self._pool.pids

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
        # The usual hash needs no reading: its parameters are spelt as they are today.
        return not stored.startswith(self._spelling) and bool(self._hasher.needs_update(stored))

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    async def _ask(self, password: str, stored: str | None) -> dict[str, object]:
        return await self._pool.ask({"password": _normal_form(password), "stored": stored, **self._parameters})


def _processes_here() -> int:
    return 2 if (os.cpu_count() or 1) >= MANY_CORES else 1


def _normal_form(password: str) -> str:
    # The same characters may be typed in several ways (NIST SP 800-63B-4, section 3.1.1.2).
    return unicodedata.normalize("NFKC", password)
