"""The cache of API keys when something changes elsewhere: another process says so, or a caller is refused."""

from pathlib import Path

import pytest

from backend.adapters.memory.change_signal import FileSignal
from backend.adapters.memory.key_directory import RECHECKS_PER_S, CachedKeyDirectory
from backend.domain.api_keys import KeyGrant
from backend.domain.plans import seed_plans
from backend.domain.tenants import TenantStatus
from tests.fakes import FakeClock
from tests.keys import a_key

pytestmark = pytest.mark.anyio

ID = "AbCdEf012345"


def grant(version: int) -> KeyGrant:
    return KeyGrant.assemble(
        key=a_key(ID, version=version), tenant_status=TenantStatus.ACTIVE, tenant_version=1, plan=seed_plans()[0]
    )


class Store:
    """A key that changes with each read, or while it is being read."""

    def __init__(self) -> None:
        self.version = 1
        self.reads = 0
        self.rings: list[FileSignal] = []

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        self.reads += 1
        read = grant(self.version)
        while self.rings:
            self.version += 1
            self.rings.pop().ring()
        return read


def version_of(found: KeyGrant | None) -> int:
    assert found is not None
    return found.key.version


async def test_a9_after_a_ring_of_another_process_everything_is_read_again(tmp_path: Path, clock: FakeClock) -> None:
    path, store = tmp_path / "db.epoch", Store()
    cache = CachedKeyDirectory(store, clock, ttl_s=30, signal=FileSignal(path))
    assert version_of(await cache.find(ID)) == 1
    store.version = 2
    assert version_of(await cache.find(ID)) == 1
    FileSignal(path).ring()
    assert version_of(await cache.find(ID)) == 2
    assert version_of(await cache.find(ID)) == 2
    assert store.reads == 2


async def test_a10_a_read_from_before_a_ring_is_not_kept(tmp_path: Path, clock: FakeClock) -> None:
    path, store = tmp_path / "db.epoch", Store()
    cache = CachedKeyDirectory(store, clock, ttl_s=30, signal=FileSignal(path))
    store.rings = [FileSignal(path)]
    assert version_of(await cache.find(ID)) == 2, "read again, since the key changed meanwhile"
    assert version_of(await cache.find(ID)) == 2


async def test_a_refused_caller_has_the_store_asked_so_often_and_no_more(clock: FakeClock) -> None:
    store = Store()
    cache = CachedKeyDirectory(store, clock, ttl_s=30)
    await cache.find(ID)
    store.version = 2
    assert version_of(await cache.recheck(ID)) == 2
    for _ in range(100):
        await cache.recheck(ID)
    assert store.reads == 1 + RECHECKS_PER_S
    store.version = 3
    assert version_of(await cache.recheck(ID)) == 2
    clock.advance(1)
    assert version_of(await cache.recheck(ID)) == 3
