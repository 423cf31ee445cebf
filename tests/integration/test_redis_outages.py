"""L3: what is promised while Redis is away, in each way it can be, and afterwards without a restart."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

from backend.adapters.breaker import Breaker
from backend.adapters.fallback import FallbackAdmission, FallbackLoginThrottle
from backend.adapters.memory import MemoryLoginThrottle
from backend.adapters.memory.local_share import LocalShare
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.adapters.redis import RedisAdmission, RedisLoginThrottle, ScriptRunner, open_line
from backend.domain.admission import AdmissionDecision, Epochs, StoredAnswer, Verdict
from backend.domain.api_keys import Environment
from backend.domain.clock import SystemClock
from backend.domain.errors import EnforcementUnavailable
from backend.domain.health import HealthStatus
from backend.domain.limits import QuotaRule, period_of
from backend.domain.plans import QuotaMode
from tests.contracts.asking import (
    KEY,
    TENANT,
    Desk,
    ask,
    claim,
    key_rate,
    lease_of,
    tenant_quota,
    tenant_rate,
)
from tests.fakes import FakeClock, FakeHistory
from tests.integration.outages import FAULTS, Fault, Patient, patient
from tests.server_process import Server

pytestmark = pytest.mark.anyio

BOUND_S = 0.1
SLACK_S = 1.0
"""Above the bound: a loaded machine may be late. Unbounded, or at two seconds each, these would take far longer."""
DISTRUST_S = 30.0
PROCESSES = 4
SOFT = tenant_quota(10, QuotaMode.SOFT)
HARD = tenant_quota(1_000)


@dataclass(frozen=True, slots=True)
class Process:
    """One server process as far as Redis can tell, with its way to fall back."""

    desk: Desk
    admission: FallbackAdmission
    throttle: FallbackLoginThrottle
    metrics: PrometheusMetrics

    async def is_back(self) -> None:
        """Return when Redis is used again."""
        async with asyncio.timeout(30):
            await self.admission.catch_up()
            while (await self.admission.check())[0].status is not HealthStatus.OK:
                await asyncio.sleep(0.01)
                await self.admission.catch_up()

    async def has_noticed(self) -> None:
        """Return when Redis is known to be away."""
        async with asyncio.timeout(30):
            while True:
                decision = await self.desk.admit(ask(key="key_notice"))
                if decision.lease is not None:
                    await self.desk.release(decision.lease)
                if self.metrics.registry.get_sample_value("forecourt_breaker_open", {"resource": "redis"}) == 1:
                    return

    def alone(self, outcome: str) -> float:
        name = "forecourt_admission_fallback_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0


@asynccontextmanager
async def process(url: str, history: FakeHistory | None = None) -> AsyncIterator[Process]:
    history, clock, metrics = history or FakeHistory(), SystemClock(), PrometheusMetrics()
    async with aclosing(open_line(url, BOUND_S)) as line:
        runner = ScriptRunner(line, Breaker("redis", metrics))
        shared = RedisAdmission(runner, history, cache_ttl_s=300.0)
        local = LocalShare(clock, processes=PROCESSES)
        admission = FallbackAdmission(shared, local, history, clock, metrics, distrust_s=DISTRUST_S)
        throttle = FallbackLoginThrottle(RedisLoginThrottle(runner), MemoryLoginThrottle(clock))
        yield Process(Desk(admission, FakeClock(), history), admission, throttle, metrics)


@pytest.fixture
async def redis(start_private_redis: Callable[[], Server]) -> AsyncIterator[Patient]:
    async with patient(start_private_redis()) as found:
        yield found


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


@contextmanager
def within_the_bound() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND_S + SLACK_S


async def refused(desk: Desk, quota: QuotaRule = HARD) -> None:
    with within_the_bound(), pytest.raises(EnforcementUnavailable) as refusal:
        await desk.admit(ask(quotas=(quota,)))
    assert refusal.value.retry_after_s == 1


async def test_l3_in_every_outage_the_share_holds_hard_caps_are_refused_and_all_recovers(
    redis: Patient, fault: Fault
) -> None:
    limit = key_rate(40)
    async with process(redis.url) as here:
        assert lease_of(await here.desk.admit(ask(rates=(limit,), quotas=(SOFT, HARD))))
        await fault.strike(redis)
        # All at once, as under load: each waits once, none waits for another.
        with within_the_bound():
            await asyncio.gather(*[refused(here.desk) for _ in range(20)])
        with within_the_bound():
            decisions = [await here.desk.admit(ask(rates=(limit,), quotas=(SOFT,))) for _ in range(40)]
        assert [decision.verdict for decision in decisions].count(Verdict.ADMITTED) == 40 // PROCESSES
        assert decisions[0].standing.rates[0].rule.per_window == 40 // PROCESSES
        assert decisions[0].standing.quotas == ()
        assert decisions[-1].verdict is Verdict.RATE_LIMITED
        with within_the_bound():
            (health,) = await here.admission.check()
        assert (health.name, health.status) == ("redis", HealthStatus.DEGRADED)
        assert "127.0.0.1" not in health.detail
        await fault.heal(redis)
        await here.is_back()
        decision = await here.desk.admit(ask(rates=(limit,), quotas=(SOFT, HARD)))
        assert decision.verdict is Verdict.ADMITTED
        assert decision.standing.rates[0].rule == limit


async def test_once_known_to_be_dead_it_is_not_waited_for_again(redis: Patient) -> None:
    async with process(redis.url) as here:
        redis.wire.go_silent()
        await here.has_noticed()
        began = time.monotonic()
        for _ in range(100):
            await here.desk.admit(ask())
            with pytest.raises(EnforcementUnavailable):
                await here.desk.admit(ask(quotas=(HARD,)))
        # Two hundred waits of a tenth of a second each would be twenty seconds.
        assert time.monotonic() - began < SLACK_S
        redis.wire.go_on()


async def test_an_idempotency_key_is_refused_rather_than_run_twice(redis: Patient) -> None:
    async with process(redis.url) as here:
        lease = lease_of(await here.desk.admit(ask(idempotency=claim())))
        await here.desk.settle(lease, answer=StoredAnswer(status=200, body=b"{}"))
        redis.server.kill()
        with within_the_bound(), pytest.raises(EnforcementUnavailable) as refusal:
            await here.desk.admit(ask(idempotency=claim()))
        assert "Idempotency-Key" in refusal.value.detail


async def test_the_cache_is_bypassed(redis: Patient) -> None:
    async with process(redis.url) as here:
        await here.desk.settle(lease_of(await here.desk.admit(ask())), fill=((b"a" * 20, b"1"),))
        assert (await here.desk.admit(ask(cache_keys=(b"a" * 20,)))).cached == (b"1",)
        redis.server.kill()
        assert (await here.desk.admit(ask(cache_keys=(b"a" * 20,)))).cached == ()


async def test_what_was_used_meanwhile_is_counted_from_the_ledger_afterwards(redis: Patient) -> None:
    history = FakeHistory()
    period = period_of(time.time())

    def book(units: int) -> None:
        history.record(TENANT, units, environment=Environment.LIVE, period=period, credential_id=KEY)

    async with process(redis.url, history) as here:
        await here.desk.spend(ask(cost=3, quotas=(SOFT,)))
        book(3)
        running = lease_of(await here.desk.admit(ask(cost=2, quotas=(SOFT,))))
        redis.server.pause()
        local = lease_of(await here.desk.admit(ask(cost=4, quotas=(SOFT,))))
        book(4)
        await here.desk.settle(local)
        book(2)
        await here.desk.settle(running)
        await here.has_noticed()
        assert (await here.desk.counted(SOFT)) == (9, 0), "told from the ledger"
        redis.server.resume()
        await here.is_back()
        await here.admission.catch_up()
        assert await here.desk.counted(SOFT) == (9, 0)


async def test_an_answer_settled_meanwhile_is_replayed_afterwards(redis: Patient) -> None:
    async with process(redis.url) as here:
        lease = lease_of(await here.desk.admit(ask(quotas=(HARD,), idempotency=claim())))
        redis.server.pause()
        with within_the_bound():
            await here.desk.settle(lease, answer=StoredAnswer(status=200, body=b"{}"))
        await here.has_noticed()
        redis.server.resume()
        await here.is_back()
        again = await here.desk.admit(ask(quotas=(HARD,), idempotency=claim()))
        assert again.verdict is Verdict.REPLAY
        assert await here.desk.counted(HARD) == (1, 0)


async def test_a_cap_is_not_measured_before_what_was_kept_is_told(redis: Patient) -> None:
    cap = tenant_quota(1)
    async with process(redis.url) as here:
        lease = lease_of(await here.desk.admit(ask(quotas=(cap,))))
        redis.server.pause()
        await here.desk.release(lease)
        redis.server.resume()
        # One call that timed out does not open the breaker; nobody has looked after the backlog yet.
        assert await here.desk.verdict(ask(quotas=(cap,))) is Verdict.ADMITTED


async def test_a9_without_redis_a_key_is_read_again_after_a_second(redis: Patient) -> None:
    cached, fresh = Epochs(tenant=1, credential=1), Epochs(tenant=1, credential=1, fresh=True)
    async with process(redis.url) as here:
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        redis.server.kill()
        await here.has_noticed()
        assert await here.desk.verdict(ask(epochs=cached)) is Verdict.STALE
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        began = time.monotonic()
        while await here.desk.verdict(ask(epochs=cached)) is Verdict.ADMITTED:
            assert time.monotonic() - began < 1.0 + SLACK_S
            await asyncio.sleep(0.01)


async def test_a9_a_revocation_made_meanwhile_holds_here_at_once_and_elsewhere_afterwards(redis: Patient) -> None:
    cached, fresh = Epochs(tenant=1, credential=1), Epochs(tenant=1, credential=1, fresh=True)
    async with process(redis.url) as here, process(redis.server.url) as there:
        for each in (here, there):
            assert await each.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        redis.wire.go_silent()
        await here.has_noticed()
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        with within_the_bound():
            await here.admission.announce(TENANT, KEY, 2)
        assert await here.desk.verdict(ask(epochs=cached)) is Verdict.STALE
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.STALE
        redis.wire.go_on()
        await here.is_back()
        assert await there.desk.verdict(ask(epochs=cached)) is Verdict.STALE


async def test_a9_after_an_outage_no_key_is_believed_from_a_cache(redis: Patient) -> None:
    cached, fresh = Epochs(tenant=1, credential=1), Epochs(tenant=1, credential=1, fresh=True)
    async with process(redis.url) as here:
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        redis.server.pause()
        await here.has_noticed()
        redis.server.resume()
        await here.is_back()
        # Somebody may have revoked it, and have died before anybody could be told.
        assert await here.desk.verdict(ask(epochs=cached)) is Verdict.STALE
        assert await here.desk.verdict(ask(epochs=fresh)) is Verdict.ADMITTED
        assert await here.desk.verdict(ask(epochs=cached)) is Verdict.ADMITTED


async def test_limits_can_still_be_looked_up(redis: Patient) -> None:
    async with process(redis.url) as here:
        redis.server.kill()
        with within_the_bound():
            standing = await here.desk.look(rates=(tenant_rate(8),), quotas=(SOFT, HARD))
        assert standing.rates[0].remaining == 8 // PROCESSES
        assert [(state.used, state.reserved) for state in standing.quotas] == [(0, 0), (0, 0)]
        here.desk.history.is_down = True
        with pytest.raises(EnforcementUnavailable):
            await here.desk.look(quotas=(SOFT,))


async def test_logins_go_on_and_are_still_slowed_down(redis: Patient) -> None:
    account, address = "a@example.com", "192.0.2.1"
    async with process(redis.url) as here:
        for _ in range(10):
            await here.throttle.failed(account, address)
        assert await here.throttle.delay_s(account, address) > 0
        redis.server.kill()
        with within_the_bound():
            assert await here.throttle.delay_s(account, address) > 0, "known here as well"
            assert await here.throttle.delay_s("b@example.com", "198.51.100.1") == 0
        for _ in range(10):
            await here.throttle.failed("b@example.com", "198.51.100.1")
        assert await here.throttle.delay_s("b@example.com", "198.51.100.1") > 0
        await here.throttle.succeeded(account, address)


async def test_an_outage_is_two_lines_in_the_log_and_counted(redis: Patient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="backend")
    async with process(redis.url) as here:
        await here.desk.admit(ask())
        redis.server.kill()
        await here.has_noticed()
        for _ in range(30):
            await here.desk.admit(ask())
            await here.admission.catch_up()
        for _ in range(3):
            with pytest.raises(EnforcementUnavailable):
                await here.desk.admit(ask(quotas=(HARD,)))
        redis.server.start()
        await here.is_back()
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        assert here.alone("admitted") >= 30
        assert here.alone("refused") == 3


async def test_a_caller_who_leaves_in_the_middle_disturbs_nobody(redis: Patient) -> None:
    async with process(redis.url) as here:
        await here.desk.admit(ask())
        redis.wire.go_silent()
        waiting: list[asyncio.Task[AdmissionDecision]] = [
            asyncio.create_task(here.desk.admit(ask(cost=cost))) for cost in range(1, 9)
        ]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        redis.wire.go_on()
        kept = await asyncio.gather(*waiting[1::2])
        assert [lease_of(decision).cost for decision in kept] == [2, 4, 6, 8]
