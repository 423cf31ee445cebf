"""What only Redis can do wrong: round trips, lost scripts, keys left behind, its own clock, and outages."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from backend.adapters.redis import RedisAdmission, RedisLoginThrottle, ScriptRunner, open_line
from backend.adapters.redis.keys import quota_counter
from backend.adapters.redis.line import Line, Reply
from backend.domain.admission import Epochs, Settlement, StoredAnswer, Verdict
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable
from backend.domain.health import HealthStatus
from backend.domain.ids import TenantId
from backend.domain.limits import period_of
from backend.services.ports import Admission
from backend.services.settling import Settler
from tests.contracts.asking import (
    CACHED,
    TENANT,
    Desk,
    ask,
    claim,
    key_quota,
    key_rate,
    lease_of,
    tenant_quota,
    tenant_rate,
)
from tests.contracts.stores import PATIENT_S
from tests.fakes import FakeClock, FakeHistory
from tests.integration.test_redis_coalescing import packets
from tests.redis_client import connect
from tests.server_process import Server

pytestmark = pytest.mark.anyio

BOUND_S = 0.1
BOUND_WITH_SLACK_S = 1.5
"""A loaded test machine may be late; without the bound these calls would hang."""


@pytest.fixture
def admission(redis_line: Line) -> RedisAdmission:
    return RedisAdmission(ScriptRunner(redis_line), FakeHistory(), cache_ttl_s=300.0)


@asynccontextmanager
async def another_process(url: str, clock: FakeClock) -> AsyncIterator[Desk]:
    """A second process as far as Redis can tell: a client, a pool and an adapter of its own."""
    async with aclosing(open_line(url, PATIENT_S)) as line:
        history = FakeHistory()
        other = RedisAdmission(ScriptRunner(line), history, cache_ttl_s=300.0, clock=clock)
        yield Desk(other, clock, history)


async def script_calls(client: Redis) -> int:
    """Commands about scripts so far. What ran inside a script is counted under its own name."""
    stats = await client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval", "script"))


async def test_one_request_is_one_command(start_private_redis: Callable[[], Server]) -> None:
    rates, quotas = (key_rate(9), tenant_rate(9)), (tenant_quota(9), key_quota(9))
    rows = ((b"a" * 20, b"1"),)
    url = start_private_redis().url
    async with aclosing(connect(url, timeout_s=PATIENT_S)) as client, aclosing(open_line(url, PATIENT_S)) as line:
        admission = RedisAdmission(ScriptRunner(line), FakeHistory(), cache_ttl_s=300.0)
        first = await admission.admit(TENANT, ask(rates=rates, quotas=quotas))
        await admission.settle(TENANT, Settlement(lease=lease_of(first), cache_fill=rows))
        before = await script_calls(client)
        request = ask(rates=rates, quotas=quotas, idempotency=claim(), cache_keys=(b"a" * 20, b"b" * 20))
        decision = await admission.admit(TENANT, request)
        assert decision.cached == (b"1", None)
        assert await script_calls(client) - before == 1
        answer = StoredAnswer(status=200, body=b"{}")
        await admission.settle(TENANT, Settlement(lease=lease_of(decision), cache_fill=rows, answer=answer))
        assert await script_calls(client) - before == 2


@pytest.mark.parametrize(("count", "commands"), [(1, 1), (2, 1), (64, 1), (65, 2)])
async def test_requests_of_one_credential_in_one_turn_are_one_command(
    start_private_redis: Callable[[], Server], count: int, commands: int
) -> None:
    rates, quotas = (key_rate(900), tenant_rate(900)), (tenant_quota(900), key_quota(900))
    url = start_private_redis().url
    async with aclosing(connect(url, timeout_s=PATIENT_S)) as client, aclosing(open_line(url, PATIENT_S)) as line:
        desk = Desk(RedisAdmission(ScriptRunner(line), FakeHistory(), cache_ttl_s=300.0), FakeClock(), FakeHistory())
        await desk.spend(ask(rates=rates, quotas=quotas))
        # Now the server has the script.
        await desk.admit_together(*[ask(rates=rates, quotas=quotas, epochs=CACHED) for _ in range(2)])
        before = await script_calls(client)
        requests = [ask(rates=rates, quotas=quotas, epochs=CACHED, cache_keys=(b"a" * 20,)) for _ in range(count)]
        decisions = await desk.admit_together(*requests)
        assert await script_calls(client) - before == commands
        assert [lease_of(each).id for each in decisions] == [each.lease_id for each in requests]


class Watched(ScriptRunner):
    """Knows in which turn of the loop it was asked."""

    turn = 0

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self.asked: list[int] = []

    async def run(self, *given: Any, **options: Any) -> Reply:
        self.asked.append(self.turn)
        return await super().run(*given, **options)


async def test_the_last_of_a_turn_asks_before_it_ends(redis_line: Line) -> None:
    """And one that is alone does: nobody waits for others who will not come."""
    rates, runner = (key_rate(900),), Watched(redis_line)
    admission = RedisAdmission(runner, FakeHistory(), cache_ttl_s=300.0)
    await admission.admit(TENANT, ask(rates=rates))
    for follow, expected in (([True, True, False], 1), ([False], 1), ([True, True], 2), ([True], 2)):
        requests = [ask(rates=rates, epochs=CACHED, others_follow=each) for each in follow]
        tasks = [asyncio.create_task(admission.admit(TENANT, request)) for request in requests]
        runner.asked.clear()
        for turn in (1, 2):
            runner.turn = turn
            await asyncio.sleep(0)
        for decision in await asyncio.gather(*tasks):
            assert decision.verdict is Verdict.ADMITTED
        assert runner.asked == [expected], follow


async def test_those_who_ask_together_have_work_done_while_they_wait(admission: RedisAdmission) -> None:
    rates, done = (key_rate(900),), list[int]()
    await admission.admit(TENANT, ask(rates=rates))

    async def admitted(number: int) -> list[int]:
        request = ask(rates=rates, epochs=CACHED, others_follow=number < 2)
        await admission.admit(TENANT, replace(request, meanwhile=lambda: done.append(number)))
        return list(done)

    # All of it was done when the first one goes on.
    assert await asyncio.gather(*[admitted(number) for number in range(3)]) == [[0, 1, 2]] * 3


async def test_a_row_that_waits_to_be_cached_is_found_by_whoever_asks_next(admission: RedisAdmission) -> None:
    settler, row = Settler(admission), (b"a" * 20, b"1")
    first = await admission.admit(TENANT, ask())
    # Now the server has the script.
    await admission.settle_all(TENANT, [Settlement(lease=lease_of(first), cache_fill=((b"b" * 20, b"2"),))])
    settler.settle_soon(Settlement(lease=lease_of(first), cache_fill=(row,)))
    assert settler.is_filling(row[:1])
    await settler.settle_first(TENANT)
    # Alone, so it asks without waiting for a turn.
    decision = await admission.admit(TENANT, ask(epochs=CACHED, cache_keys=row[:1], others_follow=False))
    assert decision.cached == row[1:]
    await settler.settled()


async def test_many_settlements_are_one_command_and_those_with_a_slot_one_each(
    start_private_redis: Callable[[], Server],
) -> None:
    whole, keys = tenant_quota(900), ("key_a", "key_b", "key_c")
    url = start_private_redis().url
    async with aclosing(connect(url, timeout_s=PATIENT_S)) as client, aclosing(open_line(url, PATIENT_S)) as line:
        admission = RedisAdmission(ScriptRunner(line), FakeHistory(), cache_ttl_s=300.0)
        requests = [ask(key=key, quotas=(whole, key_quota(90, subject=key))) for key in keys * 20]
        requests += [ask(quotas=(whole,), idempotency=claim(str(number))) for number in range(20)]
        leases = [lease_of(await admission.admit(TENANT, request)) for request in requests]
        settlements = [Settlement(lease=lease, cache_fill=((lease.id.encode(), b"1"),)) for lease in leases]
        await admission.settle_all(TENANT, settlements)  # Now the server has the scripts.
        before, reads = await script_calls(client), await packets(client, "total_reads_processed")
        await admission.settle_all(TENANT, settlements)
        assert await packets(client, "total_reads_processed") - reads < 10, "they leave in one write"
        assert await script_calls(client) - before == 1 + 20
        await admission.settle_all(TENANT, [Settlement(lease=lease_of(await admission.admit(TENANT, ask())))])
        assert await script_calls(client) - before == 1 + 20 + 1, "an admission, and nothing to settle"


async def test_a_server_that_lost_its_scripts_gets_them_again(redis_client: Redis, admission: RedisAdmission) -> None:
    quota = tenant_quota(10)
    first = await admission.admit(TENANT, ask(quotas=(quota,)))
    await redis_client.script_flush()
    second, third = [await admission.admit(TENANT, ask(quotas=(quota,))) for _ in range(2)]
    await redis_client.script_flush()
    await admission.settle(TENANT, Settlement(lease=lease_of(first)))
    await redis_client.script_flush()
    await admission.settle_all(TENANT, [Settlement(lease=lease_of(third))])
    await redis_client.script_flush()
    await admission.release(TENANT, lease_of(second))
    standing = await admission.standing(TENANT, Environment.LIVE, (), (quota,))
    assert (standing.quotas[0].used, standing.quotas[0].reserved) == (2, 0)


async def test_nothing_stays_for_ever_and_nothing_leaves_the_tenants_slot(
    redis_client: Redis, admission: RedisAdmission
) -> None:
    for settled in (True, False):
        decision = await admission.admit(
            TENANT,
            ask(
                rates=(key_rate(9), tenant_rate(9)),
                quotas=(tenant_quota(9), key_quota(None)),
                idempotency=claim(str(settled)),
                cache_keys=(b"a" * 20,),
            ),
        )
        if settled:
            answer = StoredAnswer(status=200, body=b"{}")
            await admission.settle(
                TENANT, Settlement(lease=lease_of(decision), cache_fill=((b"a" * 20, b"1"),), answer=answer)
            )
    keys = [key async for key in redis_client.scan_iter()]
    assert len(keys) == 9
    for key in keys:
        assert b"{ten_a}" in key
        assert await redis_client.pttl(key) > 0


async def test_leases_that_nobody_ended_are_given_back_and_forgotten_in_the_end_however_many(
    redis_client: Redis, admission: RedisAdmission
) -> None:
    quota = tenant_quota(100_000)
    first = lease_of(await admission.admit(TENANT, ask(cost=3, quotas=(quota,))))
    name = quota_counter(TENANT, quota, Environment.LIVE, first.period)
    server_s = int((await redis_client.time())[0])
    ended = {"forgotten": server_s - 3_700, "kept": server_s - 60}
    abandoned = {f"2:evt_{when}_{n}": at_s for when, at_s in ended.items() for n in range(2_500)}
    fields = {"r": 3 + 2 * len(abandoned), "x": min(ended.values()), **abandoned}
    await redis_client.hset(name, items=[part for field in fields.items() for part in field])
    second = await admission.admit(TENANT, ask(cost=4, quotas=(quota,)))
    assert second.standing.quotas[0].reserved == 3 + 4
    left = await redis_client.hkeys(name)
    assert [len([field for field in left if when.encode() in field]) for when in ended] == [0, 2_500]
    late = replace(first, id="evt_kept_7", cost=2)
    for _ in range(2):
        await admission.settle_all(TENANT, [Settlement(lease=late)])
    standing = await admission.standing(TENANT, Environment.LIVE, (), (quota,))
    assert (standing.quotas[0].used, standing.quotas[0].reserved) == (2, 3 + 4)


async def test_rows_and_answers_are_kept_no_longer_than_configured(redis_client: Redis, redis_line: Line) -> None:
    admission = RedisAdmission(
        ScriptRunner(redis_line),
        FakeHistory(),
        cache_ttl_s=2.5,
        idempotency_ttl_s=50.0,
        row_limit_bytes=4,
    )
    lease = lease_of(await admission.admit(TENANT, ask(idempotency=claim())))
    rows = ((b"short", b"1234"), (b"long", b"12345"))
    await admission.settle(
        TENANT, Settlement(lease=lease, cache_fill=rows, answer=StoredAnswer(status=200, body=b"{}"))
    )
    plain = lease_of(await admission.admit(TENANT, ask()))
    await admission.settle_all(TENANT, [Settlement(lease=plain, cache_fill=((b"next", b"1234"), (b"more", b"12345")))])
    found = sorted([key async for key in redis_client.scan_iter("*:row:*")])
    assert [row.rpartition(b":")[2] for row in found] == [b"next", b"short"]
    for row in found:
        assert 0 < await redis_client.pttl(row) <= 2500
    (slot,) = [key async for key in redis_client.scan_iter("*:idem:*")]
    assert 0 < await redis_client.ttl(slot) <= 50


async def test_without_a_clock_the_servers_decides(admission: RedisAdmission) -> None:
    limit, quota = key_rate(600), tenant_quota(30)
    decisions = await asyncio.gather(
        *[admission.admit(TENANT, ask(rates=(limit,), quotas=(quota,))) for _ in range(120)]
    )
    assert [d.verdict for d in decisions].count(Verdict.ADMITTED) == 30
    assert {lease.period for d in decisions if (lease := d.lease)} == {period_of(time.time())}


async def test_a_month_that_ends_between_two_looks_at_the_clock_is_noticed(redis_line: Line) -> None:
    class EdgeClock(FakeClock):
        """The month ends after the first look."""

        def now_s(self) -> float:
            now_s = super().now_s()
            self.set(datetime(2026, 8, 1, tzinfo=UTC))
            return now_s

    clock = EdgeClock(datetime(2026, 7, 31, 23, 59, 59, tzinfo=UTC))
    admission = RedisAdmission(ScriptRunner(redis_line), FakeHistory(), cache_ttl_s=1.0, clock=clock)
    decision = await admission.admit(TENANT, ask(quotas=(tenant_quota(5),)))
    assert lease_of(decision).period == "2026-08"
    assert decision.standing.quotas[0].resets_at_s == datetime(2026, 9, 1, tzinfo=UTC).timestamp()


async def test_a_flush_while_the_ledger_is_read_makes_it_read_again(
    redis_client: Redis, redis_line: Line, clock: FakeClock
) -> None:
    quota = tenant_quota(100)

    class Flushed(FakeHistory):
        """The server is flushed while the first answer is on its way."""

        async def units_in_period(
            self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
        ) -> int:
            self.questions += 1
            if self.questions == 1:
                await redis_client.flushdb()
                return 10
            return 90

    history = Flushed()
    admission = RedisAdmission(ScriptRunner(redis_line), history, cache_ttl_s=1.0, clock=clock)
    desk = Desk(admission, clock, history)
    assert await desk.verdict(ask(cost=11, quotas=(quota,))) is Verdict.QUOTA_EXCEEDED
    assert await desk.counted(quota) == (90, 0)


async def test_a9_two_processes_share_a_revocation_and_a_cap(redis_url: str, redis_client: Redis) -> None:
    clock = FakeClock()
    async with another_process(redis_url, clock) as one, another_process(redis_url, clock) as two:
        quota = tenant_quota(20)
        verdicts = await asyncio.gather(*[desk.verdict(ask(quotas=(quota,))) for desk in (one, two) * 40])
        assert verdicts.count(Verdict.ADMITTED) == 20
        await one.admission.announce(TENANT, "key_a", 2)
        assert await two.verdict(ask(epochs=Epochs(tenant=1, credential=1))) is Verdict.STALE
        assert await two.verdict(ask()) is Verdict.STALE


async def test_l3_a_stopped_server_is_refused_within_the_bound_and_used_again_when_it_is_back(
    start_private_redis: Callable[[], Server], clock: FakeClock
) -> None:
    server = start_private_redis()
    request = ask(quotas=(tenant_quota(5),))
    async with aclosing(open_line(server.url, BOUND_S)) as line:
        runner = ScriptRunner(line)
        admission = RedisAdmission(runner, FakeHistory(), cache_ttl_s=1.0, clock=clock)
        lease = lease_of(await admission.admit(TENANT, request))
        server.kill()
        await _refuses_within_the_bound(admission)
        with pytest.raises(EnforcementUnavailable):
            await admission.settle(TENANT, Settlement(lease=lease))
        with pytest.raises(EnforcementUnavailable):
            await RedisLoginThrottle(runner).delay_s("a@example.com", "192.0.2.1")
        (health,) = await admission.check()
        assert (health.name, health.status) == ("redis", HealthStatus.DOWN)
        assert "127.0.0.1" not in health.detail
        server.start()
        await _recovers(runner)
        assert (await admission.admit(TENANT, request)).verdict is Verdict.ADMITTED
        (health,) = await admission.check()
        assert health.status is HealthStatus.OK


async def test_l3_a_hanging_server_is_refused_within_the_bound_by_every_caller(
    start_private_redis: Callable[[], Server], clock: FakeClock
) -> None:
    server = start_private_redis()
    async with aclosing(open_line(server.url, BOUND_S)) as line:
        runner = ScriptRunner(line)
        admission = RedisAdmission(runner, FakeHistory(), cache_ttl_s=1.0, clock=clock)
        await admission.admit(TENANT, ask())
        server.pause()
        await asyncio.gather(*[_refuses_within_the_bound(admission) for _ in range(20)])
        (health,) = await admission.check()
        assert health.status is HealthStatus.DOWN
        server.resume()
        await _recovers(runner)
        assert (await admission.admit(TENANT, ask())).verdict is Verdict.ADMITTED


async def _refuses_within_the_bound(admission: Admission) -> None:
    began = time.monotonic()
    with pytest.raises(EnforcementUnavailable) as refusal:
        await admission.admit(TENANT, ask(quotas=(tenant_quota(5),)))
    assert time.monotonic() - began < BOUND_WITH_SLACK_S
    assert refusal.value.retry_after_s == 1


async def _recovers(runner: ScriptRunner) -> None:
    async with asyncio.timeout(PATIENT_S):
        while not await runner.probe():
            await asyncio.sleep(0)
