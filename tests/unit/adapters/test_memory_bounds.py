"""What a caller can make grow in memory, and what gives way."""

import resource
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.adapters.memory import MemoryAdmission, MemoryLoginThrottle
from backend.adapters.memory.bounded_map import BoundedMap
from backend.adapters.memory.idempotency import LATE_S, IdempotencySlots
from backend.adapters.memory.quotas import QuotaCounters
from backend.domain.admission import IdempotencyClaim, Settlement, StoredAnswer, Verdict
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule
from tests.contracts.asking import TENANT, ask, key_quota, lease_of
from tests.fakes import FakeClock, FakeHistory

STATM = Path("/proc/self/statm")

operations = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(1, 50)), max_size=60)


@given(script=operations)
def test_a_map_never_weighs_more_than_its_limit_and_never_lies(script: list[tuple[int, int, int]]) -> None:
    bounded: BoundedMap[int, int] = BoundedMap(20)
    newest: dict[int, tuple[int, int]] = {}
    for now_s, (key, weight, lives_s) in enumerate(script):
        bounded.put(key, now_s, weight=weight, expires_at_s=now_s + lives_s)
        newest[key] = (now_s, now_s + lives_s)
        assert bounded.weight <= 20
        for asked in range(9):
            found = bounded.get(asked, now_s)
            assert found is None or (found == newest[asked][0] and newest[asked][1] > now_s)


def test_the_least_recently_used_gives_way() -> None:
    bounded: BoundedMap[str, int] = BoundedMap(2)
    bounded.put("a", 1)
    bounded.put("b", 2)
    assert bounded.get("a") == 1
    bounded.put("c", 3)
    assert (bounded.get("a"), bounded.get("b"), bounded.get("c")) == (1, None, 3)


def test_what_is_too_heavy_alone_is_not_kept_and_pushes_nothing_out() -> None:
    bounded: BoundedMap[str, int] = BoundedMap(2)
    bounded.put("a", 1)
    bounded.put("b", 2, weight=3)
    assert (bounded.get("a"), bounded.get("b")) == (1, None)


@pytest.mark.anyio
async def test_an_evicted_counter_comes_back_from_the_ledger_and_a_busy_one_stays(clock: FakeClock) -> None:
    history = FakeHistory()
    counters = QuotaCounters(clock, history, limit=3)
    busy = QuotaRule(scope="key", subject="busy", limit=9)
    await counters.begin(TENANT, Environment.LIVE, "2026-07", (busy,))
    counter = counters.find(TENANT, Environment.LIVE, "2026-07", busy)
    assert counter is not None
    counter.lease("evt_1", 4, clock.now_s() + 60)
    for number in range(10):
        rule = QuotaRule(scope="key", subject=str(number), limit=9)
        await counters.begin(TENANT, Environment.LIVE, "2026-07", (rule,))
    assert len(counters) == 3
    assert counters.find(TENANT, Environment.LIVE, "2026-07", busy) is counter
    clock.advance(60)
    for number in range(10, 20):
        rule = QuotaRule(scope="key", subject=str(number), limit=9)
        await counters.begin(TENANT, Environment.LIVE, "2026-07", (rule,))
    assert counters.find(TENANT, Environment.LIVE, "2026-07", busy) is None


@pytest.mark.anyio
async def test_many_subjects_make_one_tenant_no_larger(clock: FakeClock) -> None:
    admission = MemoryAdmission(clock, FakeHistory(), cache_bytes=5_000, cache_ttl_s=60, max_subjects=50)
    for number in range(300):
        key = f"key_{number}"
        request = ask(key=key, quotas=(key_quota(None, subject=key),))
        lease = lease_of(await admission.admit(TENANT, request))
        row = (number.to_bytes(20, "big"), b"x" * 100)
        await admission.settle(TENANT, Settlement(lease=lease, cache_fill=(row,)))
    assert len(admission._quotas) == 50
    assert admission._cache.weight <= 5_000
    # The newest rows are there, and the newest epochs are known.
    newest = await admission.admit(TENANT, ask(key="key_299", cache_keys=((299).to_bytes(20, "big"),)))
    assert newest.cached == (b"x" * 100,)


@pytest.mark.anyio
@pytest.mark.skipif(not STATM.exists(), reason="only Linux tells")
async def test_the_cache_takes_the_memory_that_it_says_it_takes(clock: FakeClock) -> None:
    """A row as a model's answer is written holds more of the memory than its bytes."""
    admission = MemoryAdmission(clock, FakeHistory(), cache_bytes=2**30, cache_ttl_s=60)
    lease = lease_of(await admission.admit(TENANT, ask()))
    before = resident_bytes()
    for number in range(10_000):
        row = orjson.dumps({"label": "setosa", "probability": number / 7})
        await admission.settle(TENANT, Settlement(lease=lease, cache_fill=((number.to_bytes(20, "big"), row),)))
    assert admission._cache.weight > 2_500_000
    # Uncopied they take 41 MB. The collector and the allocator have a share of their own in what is measured.
    assert resident_bytes() - before < 15_000_000


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


@pytest.mark.anyio
async def test_a_cached_row_expires(clock: FakeClock) -> None:
    admission = MemoryAdmission(clock, FakeHistory(), cache_bytes=5_000, cache_ttl_s=60)
    lease = lease_of(await admission.admit(TENANT, ask()))
    await admission.settle(TENANT, Settlement(lease=lease, cache_fill=((b"k" * 20, b"row"),)))
    clock.advance(59)
    assert (await admission.admit(TENANT, ask(cache_keys=(b"k" * 20,)))).cached == (b"row",)
    clock.advance(1)
    assert (await admission.admit(TENANT, ask(cache_keys=(b"k" * 20,)))).cached == (None,)


def test_answers_are_bounded_and_lost_slots_are_swept() -> None:
    slots = IdempotencySlots(ttl_s=86_400, limit_bytes=10_000)
    claim = IdempotencyClaim(key="k", fingerprint=b"f")
    names = [(TenantId("ten"), "key", str(number)) for number in range(100)]
    for number, name in enumerate(names):
        slots.hold(name, claim, f"evt_{number}", now_s=0.0, expires_at_s=60.0)
    for number, name in enumerate(names[:50]):
        slots.finish(name, f"evt_{number}", StoredAnswer(status=200, body=b"x" * 1000), 0.0)
    answered = [name for name in names[:50] if slots.ask(name, claim, 0.0) is not None]
    assert 0 < len(answered) < 10
    assert answered == names[50 - len(answered) : 50]
    assert slots.ask(names[99], claim, 0.0) == (Verdict.IDEMPOTENCY_IN_PROGRESS, None)
    slots.hold((TenantId("ten"), "key", "later"), claim, "evt_later", now_s=60 + LATE_S, expires_at_s=120 + LATE_S)
    assert len(slots._running) == 1


@pytest.mark.anyio
async def test_a_flood_of_invented_accounts_is_bounded(clock: FakeClock) -> None:
    throttle = MemoryLoginThrottle(clock, max_entries=100)
    for number in range(1000):
        await throttle.failed(f"user{number}@example.com", f"192.0.2.{number % 250}")
    assert {len(throttle._pairs), len(throttle._addresses), len(throttle._accounts)} == {100}
