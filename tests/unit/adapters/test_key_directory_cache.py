"""The cache of API keys: it asks the store once, forgets in time, and never brings an older version back (A10)."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from backend.adapters.memory.key_directory import ASKED_AGAIN_AFTER_S, NEGATIVE_TTL_S, CachedKeyDirectory
from backend.domain.api_keys import KeyGrant
from backend.domain.errors import StoreUnavailable
from backend.domain.plans import seed_plans
from backend.domain.tenants import TenantStatus
from tests.fakes import FakeClock
from tests.keys import MADE_AT, a_key

pytestmark = pytest.mark.anyio

TTL_S = 30.0
ID = "AbCdEf012345"


def grant(lookup_id: str = ID, *, version: int = 1, tenant_version: int = 1, revoked: bool = False) -> KeyGrant:
    key = a_key(lookup_id, version=version, revoked_at=MADE_AT if revoked else None)
    return KeyGrant.assemble(
        key=key, tenant_status=TenantStatus.ACTIVE, tenant_version=tenant_version, plan=seed_plans()[0]
    )


class StoreOfKeys:
    """What a store holds, how often it was asked, and answers that stay on their way until a test lets them arrive."""

    def __init__(self, *held: KeyGrant) -> None:
        self.held = {each.key.lookup_id: each for each in held}
        self.reads: list[str] = []
        self.is_down = False
        self.on_their_way: list[asyncio.Event] = []
        self.holds_back = False

    def put(self, changed: KeyGrant) -> None:
        self.held[changed.key.lookup_id] = changed

    async def find(self, lookup_id: str) -> KeyGrant | None:
        return await self.reload(lookup_id)

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        self.reads.append(lookup_id)
        answer = self.held.get(lookup_id)
        if self.holds_back:
            arrival = asyncio.Event()
            self.on_their_way.append(arrival)
            await arrival.wait()
        else:
            # A real store lets others run meanwhile.
            await asyncio.sleep(0)
        if self.is_down:
            raise StoreUnavailable(retry_after_s=1)
        return answer

    async def asked(self, times: int) -> None:
        """Let others run until the store has been asked so often."""
        while len(self.reads) < times:
            await asyncio.sleep(0)


def cache_of(store: StoreOfKeys, clock: FakeClock, **bounds: Any) -> CachedKeyDirectory:
    return CachedKeyDirectory(store, clock, ttl_s=TTL_S, **bounds)


async def test_a_key_is_read_once_and_then_served_from_memory(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    assert [await cache.find(ID) for _ in range(5)] == [grant()] * 5
    assert store.reads == [ID]


async def test_many_who_ask_at_once_cause_one_read(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    assert await asyncio.gather(*(cache.find(ID) for _ in range(50))) == [grant()] * 50
    assert store.reads == [ID]


async def test_many_who_ask_at_once_for_what_is_not_there_cause_one_read(clock: FakeClock) -> None:
    store = StoreOfKeys()
    cache = cache_of(store, clock)
    assert await asyncio.gather(*(cache.find(ID) for _ in range(50))) == [None] * 50
    assert store.reads == [ID]


async def test_a_key_is_read_again_when_its_time_is_over_and_not_before(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    await cache.find(ID)
    store.put(grant(version=2))
    clock.advance(TTL_S - 0.5)
    assert await cache.find(ID) == grant()
    clock.advance(0.5)
    assert await cache.find(ID) == grant(version=2)
    assert store.reads == [ID, ID]


async def test_being_used_does_not_make_a_key_last_longer(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    for _ in range(6):
        await cache.find(ID)
        clock.advance(TTL_S / 5)
    assert store.reads == [ID, ID]


async def test_that_an_id_is_unknown_is_remembered_for_a_shorter_time(clock: FakeClock) -> None:
    store = StoreOfKeys()
    cache = cache_of(store, clock)
    assert NEGATIVE_TTL_S < TTL_S
    assert await cache.find(ID) is None
    store.put(grant())
    clock.advance(NEGATIVE_TTL_S - 0.5)
    assert await cache.find(ID) is None
    assert store.reads == [ID]
    clock.advance(0.5)
    assert await cache.find(ID) == grant()


async def test_reload_asks_the_store_and_what_it_says_is_served_from_then_on(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    await cache.find(ID)
    store.put(grant(version=2, revoked=True))
    assert await cache.reload(ID) == grant(version=2, revoked=True)
    assert await cache.find(ID) == grant(version=2, revoked=True)
    assert store.reads == [ID, ID]


async def test_reload_finds_a_key_that_was_unknown_a_moment_ago(clock: FakeClock) -> None:
    store = StoreOfKeys()
    cache = cache_of(store, clock)
    await cache.find(ID)
    store.put(grant())
    assert await cache.reload(ID) == grant()
    assert await cache.find(ID) == grant()


async def test_reload_of_a_key_that_is_gone_forgets_it(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    await cache.find(ID)
    store.held.clear()
    assert await cache.reload(ID) is None
    assert await cache.find(ID) is None


async def test_a10_a_read_that_began_before_a_revocation_does_not_bring_the_key_back(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    store.holds_back = True
    before = asyncio.create_task(cache.find(ID))
    await store.asked(1)
    store.put(grant(version=2, revoked=True))
    after = asyncio.create_task(cache.reload(ID))
    await store.asked(2)
    old_answer, new_answer = store.on_their_way
    new_answer.set()
    assert await after == grant(version=2, revoked=True)
    old_answer.set()
    # Not even the one who began before gets the old state.
    assert await before == grant(version=2, revoked=True)
    assert await cache.find(ID) == grant(version=2, revoked=True)
    assert len(store.reads) == 2


async def test_a10_a_read_that_began_before_a_suspension_does_not_lift_it(clock: FakeClock) -> None:
    store = StoreOfKeys(grant(version=5))
    cache = cache_of(store, clock)
    store.holds_back = True
    before = asyncio.create_task(cache.reload(ID))
    await store.asked(1)
    suspended = replace(grant(version=5, tenant_version=2), tenant_status=TenantStatus.SUSPENDED)
    store.put(suspended)
    after = asyncio.create_task(cache.reload(ID))
    await store.asked(2)
    store.on_their_way[1].set()
    await after
    store.on_their_way[0].set()
    assert await before == suspended
    assert await cache.find(ID) == suspended


async def test_a10_reload_does_not_join_a_read_that_began_earlier(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    store.holds_back = True
    finding = asyncio.create_task(cache.find(ID))
    await store.asked(1)
    store.put(grant(version=2, revoked=True))
    reloading = asyncio.create_task(cache.reload(ID))
    await store.asked(2)
    store.on_their_way[0].set()
    assert await finding == grant()
    assert not reloading.done()
    store.on_their_way[1].set()
    assert await reloading == grant(version=2, revoked=True)


async def test_the_same_version_read_again_counts_from_then(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    await cache.find(ID)
    clock.advance(TTL_S - 1)
    await cache.reload(ID)
    clock.advance(TTL_S - 1)
    await cache.find(ID)
    assert store.reads == [ID, ID]


async def test_a_flood_of_invented_ids_pushes_no_real_key_out(clock: FakeClock) -> None:
    real = [grant(f"real{number:08d}") for number in range(10)]
    store = StoreOfKeys(*real)
    cache = cache_of(store, clock, max_keys=10, max_unknown=10)
    for each in real:
        await cache.find(each.key.lookup_id)
    store.reads.clear()
    for number in range(1000):
        assert await cache.find(f"fake{number:08d}") is None
    store.reads.clear()
    for each in real:
        assert await cache.find(each.key.lookup_id) == each
    assert store.reads == []


async def test_invented_ids_are_not_remembered_without_bound(clock: FakeClock) -> None:
    store = StoreOfKeys()
    cache = cache_of(store, clock, max_unknown=10)
    for number in range(11):
        await cache.find(f"fake{number:08d}")
    store.reads.clear()
    await cache.find("fake00000000")
    assert store.reads == ["fake00000000"], "the oldest had to give way"


async def test_beyond_its_bound_the_key_used_least_recently_gives_way(clock: FakeClock) -> None:
    first, second, third = (grant(f"real{number:08d}") for number in range(3))
    store = StoreOfKeys(first, second, third)
    cache = cache_of(store, clock, max_keys=2)
    for each in (first, second, first, third):
        await cache.find(each.key.lookup_id)
    store.reads.clear()
    await cache.find(first.key.lookup_id)
    assert store.reads == []
    assert await cache.find(second.key.lookup_id) == second
    assert store.reads == [second.key.lookup_id]


async def test_an_outage_reaches_everybody_who_waits_and_is_not_remembered(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    store.is_down = True
    answers = await asyncio.gather(*(cache.find(ID) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 3
    store.is_down = False
    assert await cache.find(ID) == grant()


async def test_a_known_key_is_served_through_an_outage_until_its_time_is_over(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock)
    await cache.find(ID)
    store.is_down = True
    clock.advance(TTL_S - 1)
    assert await cache.find(ID) == grant()
    clock.advance(1)
    with pytest.raises(StoreUnavailable):
        await cache.find(ID)


STALE_S = 300.0


async def test_while_the_store_is_down_a_key_goes_on_for_the_stated_window(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock, stale_for_s=STALE_S)
    await cache.find(ID)
    store.is_down = True
    clock.advance(TTL_S)
    for _ in range(int(STALE_S / 10)):
        assert cache.holds(ID)
        assert await cache.find(ID) == grant()
        clock.advance(10)
    assert not cache.holds(ID)
    with pytest.raises(StoreUnavailable):
        await cache.find(ID)


async def test_a_store_that_is_down_is_asked_for_a_key_once_a_second(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock, stale_for_s=STALE_S)
    await cache.find(ID)
    store.is_down = True
    clock.advance(TTL_S)
    for _ in range(50):
        await cache.find(ID)
    assert len(store.reads) == 2
    clock.advance(ASKED_AGAIN_AFTER_S)
    store.is_down = False
    store.put(grant(version=2))
    assert await cache.find(ID) == grant(version=2)


async def test_a_stale_key_is_not_what_a_stale_verdict_is_answered_with(clock: FakeClock) -> None:
    """Admission knows of a revocation: what the store said before does not count, also while it is down."""
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock, stale_for_s=STALE_S)
    await cache.find(ID)
    store.is_down = True
    with pytest.raises(StoreUnavailable):
        await cache.reload(ID)


async def test_a_key_that_was_deleted_is_not_stale(clock: FakeClock) -> None:
    store = StoreOfKeys(grant())
    cache = cache_of(store, clock, stale_for_s=STALE_S)
    await cache.find(ID)
    del store.held[ID]
    assert await cache.reload(ID) is None
    store.is_down = True
    clock.advance(NEGATIVE_TTL_S)
    with pytest.raises(StoreUnavailable):
        await cache.find(ID)


async def test_no_key_is_stale_past_the_end_of_its_plan(clock: FakeClock) -> None:
    ends_at = datetime.fromtimestamp(clock.now_s() + 10, UTC)
    store = StoreOfKeys(replace(grant(), plan_ends_at=ends_at))
    cache = cache_of(store, clock, stale_for_s=STALE_S)
    await cache.find(ID)
    store.is_down = True
    clock.advance(10)
    with pytest.raises(StoreUnavailable):
        await cache.find(ID)
