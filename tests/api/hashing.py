"""What an answer costs in password hashes: the one part of a login that takes long enough to be timed from outside."""

from collections.abc import Iterator
from contextlib import contextmanager

from backend.api.deps import get_password_hasher
from backend.services.ports.identity import PasswordHasher
from tests.api.conftest import World


class CountedHasher:
    """The application's own hasher, and what it was asked for: each is one whole hash, whoever asks."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self._hasher = hasher
        self.asked: list[str] = []

    async def hash(self, password: str) -> str:
        self.asked.append("hash")
        return await self._hasher.hash(password)

    async def verify(self, password: str, stored: str | None) -> bool:
        self.asked.append("verify")
        return await self._hasher.verify(password, stored)

    def is_outdated(self, stored: str) -> bool:
        return self._hasher.is_outdated(stored)


@contextmanager
def hashes_counted(world: World) -> Iterator[CountedHasher]:
    """Count the hashes that are asked for within the block."""
    counted = CountedHasher(world.resources.password_hasher)
    world.app.dependency_overrides[get_password_hasher] = lambda: counted
    try:
        yield counted
    finally:
        del world.app.dependency_overrides[get_password_hasher]
