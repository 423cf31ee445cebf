"""Two servers over one shared admission that goes away and comes back, beside a plain diary of what may be admitted."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.adapters.fallback import FallbackAdmission
from backend.adapters.memory import MemoryAdmission
from backend.adapters.memory.local_share import LocalShare
from backend.adapters.memory.metrics import NullMetrics
from backend.domain.admission import AdmissionDecision, AdmissionRequest, Lease, Settlement, Standing, Verdict
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable
from backend.domain.health import ResourceHealth
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement, QuotaRule, RateRule
from backend.domain.plans import QuotaMode
from tests.contracts.asking import JUST_READ, TENANT, ask, claim, key_rate, lease_of, tenant_quota, tenant_rate
from tests.contracts.stores import LEASE_TTL_S
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

SERVERS = 2
RATES = (key_rate(12), tenant_rate(20))
CAP = 30
HARD = (tenant_quota(CAP),)


class SwitchedAdmission:
    """Implements ``SharedAdmission``: one in memory that answers, is known to be away, or fails without a warning."""

    def __init__(self, clock: FakeClock) -> None:
        self._memory = MemoryAdmission(
            clock, FakeHistory(), cache_bytes=1_000_000, cache_ttl_s=300.0, lease_ttl_s=LEASE_TTL_S
        )
        self.state = "here"
        self.recounted: list[str] = []
        self.listens = asyncio.Event()
        self.listens.set()

    @property
    def is_away(self) -> bool:
        return self.state == "away"

    async def recovered(self) -> bool:
        return self.state == "here"

    async def recount(self, lease: Lease) -> None:
        self._require_here()
        self.recounted.append(lease.id)

    async def admit(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        self._require_here()
        return await self._memory.admit(tenant_id, request)

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        self._require_here()
        await self.listens.wait()
        await self._memory.settle(tenant_id, settlement)

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        self._require_here()
        await self._memory.settle_all(tenant_id, settlements)

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        self._require_here()
        await self._memory.release(tenant_id, lease)

    async def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        self._require_here()
        await self._memory.announce(tenant_id, credential_id, version)

    async def standing(
        self,
        tenant_id: TenantId,
        environment: Environment,
        rates: tuple[RateRule, ...],
        quotas: tuple[QuotaRule, ...],
    ) -> Standing:
        self._require_here()
        return await self._memory.standing(tenant_id, environment, rates, quotas)

    async def settled_units(self, tenant_id: TenantId, environment: Environment, period: str) -> int | None:
        self._require_here()
        return await self._memory.settled_units(tenant_id, environment, period)

    async def check(self) -> tuple[ResourceHealth, ...]:
        return await self._memory.check()

    def _require_here(self) -> None:
        if self.state != "here":
            raise EnforcementUnavailable(retry_after_s=1)


def a_server(shared: SwitchedAdmission, clock: FakeClock) -> FallbackAdmission:
    local = LocalShare(clock, processes=SERVERS)
    return FallbackAdmission(shared, local, FakeHistory(), clock, NullMetrics(), distrust_s=30.0)


@dataclass
class Entry:
    """One lease of the hard quota; ``told`` is whether the shared admission knows how it ended."""

    at_s: float
    cost: int
    end: str = ""
    told: bool = False

    def counts(self, now_s: float) -> bool:
        return self.end == "settled" if self.told else self.at_s + LEASE_TTL_S > now_s


@dataclass
class Play:
    """Servers, and beside them the diary: what was spent of the shared limits, of each share, and every lease."""

    clock: FakeClock
    shared: SwitchedAdmission
    servers: list[FallbackAdmission]
    spent: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {"shared": [], "0": [], "1": []})
    entries: dict[str, Entry] = field(default_factory=dict)
    held: list[tuple[int, Lease]] = field(default_factory=list)
    untold: dict[int, list[Entry]] = field(default_factory=lambda: {0: [], 1: []})

    async def ask_plain(self, number: int) -> None:
        await self._ask(number % SERVERS, 1 + number % 9, ())

    async def ask_hard(self, number: int) -> None:
        await self._ask(number % SERVERS, 1 + number % 9, HARD)

    async def settle(self, number: int) -> None:
        await self._end(number, "settled")

    async def release(self, number: int) -> None:
        await self._end(number, "released")

    async def wait(self, number: int) -> None:
        self.clock.advance((1, 5, 20, 45)[number % 4])

    async def switch(self, number: int) -> None:
        self.shared.state = ("here", "away", "failing")[number % 3]

    async def catch_up(self, number: int) -> None:
        server = number % SERVERS
        await self.servers[server].catch_up()
        self._told(server)

    def _told(self, server: int) -> None:
        if self.shared.state == "here":
            for entry in self.untold[server]:
                entry.told = True
            self.untold[server].clear()

    async def _ask(self, server: int, cost: int, quotas: tuple[QuotaRule, ...]) -> None:
        is_here, now_s = self.shared.state == "here", self.clock.now_s()
        request = ask(cost=cost, rates=RATES, quotas=quotas, epochs=JUST_READ)
        if quotas and not is_here:
            with pytest.raises(EnforcementUnavailable):
                await self.servers[server].admit(TENANT, request)
            return
        if quotas:
            # A cap is never measured before this server's own ends of leases are told.
            self._told(server)
        diary = self.spent["shared" if is_here else str(server)]
        owed = [self._owed(diary, self._limit(rule, is_here=is_here), now_s) for rule in RATES]
        expected = Verdict.ADMITTED
        if any(rows + cost > self._limit(rule, is_here=is_here) for rule, rows in zip(RATES, owed, strict=True)):
            expected = Verdict.RATE_LIMITED
        elif quotas and self._counted(now_s) + cost > CAP:
            expected = Verdict.QUOTA_EXCEEDED
        decision = await self.servers[server].admit(TENANT, request)
        assert decision.verdict is expected
        if decision.lease is None:
            return
        diary.append((now_s, cost))
        self.held.append((server, decision.lease))
        if quotas:
            self.entries[request.lease_id] = Entry(now_s, cost)
            assert self._counted(now_s) <= CAP

    async def _end(self, number: int, how: str) -> None:
        if not self.held:
            return
        server, lease = self.held.pop(number % len(self.held))
        if how == "settled":
            await self.servers[server].settle(TENANT, Settlement(lease=lease))
        else:
            await self.servers[server].release(TENANT, lease)
        entry = self.entries.get(lease.id)
        if entry is not None:
            entry.end, entry.told = how, self.shared.state == "here"
            if not entry.told:
                self.untold[server].append(entry)

    def _counted(self, now_s: float) -> int:
        return sum(entry.cost for entry in self.entries.values() if entry.counts(now_s))

    @staticmethod
    def _limit(rule: RateRule, *, is_here: bool) -> int:
        return rule.per_window if is_here else rule.per_window // SERVERS

    @staticmethod
    def _owed(diary: list[tuple[float, int]], per_minute: int, now_s: float) -> Fraction:
        owed, since = Fraction(0), Fraction(0)
        for at_s, cost in [*diary, (now_s, 0)]:
            owed = max(Fraction(0), owed - (Fraction(at_s) - since) * per_minute / 60) + cost
            since = Fraction(at_s)
        return owed


ACTS: dict[str, Callable[[Play, int], Awaitable[None]]] = {
    "ask_plain": Play.ask_plain,
    "ask_hard": Play.ask_hard,
    "settle": Play.settle,
    "release": Play.release,
    "wait": Play.wait,
    "switch": Play.switch,
    "catch_up": Play.catch_up,
}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.integers(0, 60)), min_size=8, max_size=80))
async def test_l3_through_any_outages_no_share_no_limit_and_no_hard_cap_is_passed(
    script: list[tuple[str, int]],
) -> None:
    clock = FakeClock()
    shared = SwitchedAdmission(clock)
    play = Play(clock, shared, [a_server(shared, clock) for _ in range(SERVERS)])
    for act, number in script:
        await ACTS[act](play, number)
    # Once it is back and everything is told, what it counts is what the diary holds.
    shared.state = "here"
    for server, lease in play.held:
        await play.servers[server].settle(TENANT, Settlement(lease=lease))
        if lease.id in play.entries:
            play.entries[lease.id].end, play.entries[lease.id].told = "settled", True
    for server in range(SERVERS):
        await play.catch_up(server)
    standing = await shared.standing(TENANT, Environment.LIVE, (), HARD)
    used = sum(entry.cost for entry in play.entries.values() if entry.end == "settled")
    assert [(state.used, state.reserved) for state in standing.quotas] == [(used, 0)]


async def test_l3_a_hard_cap_is_not_measured_by_counters_that_still_miss_something(clock: FakeClock) -> None:
    """And whoever asks for it does not wait until they have been told everything."""
    shared = SwitchedAdmission(clock)
    server = a_server(shared, clock)
    lease = lease_of(await server.admit(TENANT, ask(cost=CAP, quotas=HARD)))
    shared.state = "failing"
    await server.settle(TENANT, Settlement(lease=lease))
    shared.state = "here"
    shared.listens.clear()
    clock.advance(LEASE_TTL_S + 1)  # By the counter alone everything has been given back.
    for _ in range(3):
        with pytest.raises(EnforcementUnavailable):
            await server.admit(TENANT, ask(quotas=HARD))
    assert (await server.admit(TENANT, ask())).verdict is Verdict.ADMITTED
    shared.listens.set()
    await server.catch_up()
    assert (await server.admit(TENANT, ask(quotas=HARD))).verdict is Verdict.QUOTA_EXCEEDED


@pytest.mark.parametrize("state", ["here", "away", "failing"])
async def test_l3_of_leases_settled_together_each_is_told_once_and_counted_from_where_it_was_granted(
    clock: FakeClock, state: str
) -> None:
    shared = SwitchedAdmission(clock)
    server = a_server(shared, clock)
    soft = tenant_quota(CAP, QuotaMode.SOFT)
    leases = [lease_of(await server.admit(TENANT, ask(cost=cost, quotas=HARD))) for cost in (1, 2, 4)]
    shared.state = "failing"
    leases[1:1] = [lease_of(await server.admit(TENANT, ask(cost=8, quotas=(soft,)))) for _ in range(2)]
    shared.state = state
    await server.settle_all(TENANT, [Settlement(lease=lease) for lease in leases])
    shared.state = "here"
    await server.catch_up()
    standing = await shared.standing(TENANT, Environment.LIVE, (), HARD)
    assert [(quota.used, quota.reserved) for quota in standing.quotas] == [(7, 0)]
    assert len(shared.recounted) == 1, "what was granted here alone is counted from the ledger"


@pytest.mark.parametrize("state", ["away", "failing"])
async def test_in_shadow_hard_quotas_refuse_nobody_while_the_shared_admission_is_gone(
    clock: FakeClock, state: str
) -> None:
    shared = SwitchedAdmission(clock)
    server = a_server(shared, clock)
    shared.state = state
    decisions = [
        await server.admit(TENANT, ask(cost=4, rates=RATES, quotas=HARD, enforcement=Enforcement.SHADOW))
        for _ in range(3)
    ]
    # Its share of the key's limit is six rows.
    assert [decision.overrun for decision in decisions] == [None, Verdict.RATE_LIMITED, Verdict.RATE_LIMITED]
    assert [decision.standing.rates[0].remaining for decision in decisions] == [2, 2, 2]
    for decision in decisions:
        await server.settle(TENANT, Settlement(lease=lease_of(decision)))
    shared.state = "here"
    await server.catch_up()
    assert len(shared.recounted) == 1, "the quota's counter begins again with what the ledger holds"


async def test_in_shadow_an_idempotency_key_that_cannot_be_honoured_is_refused(clock: FakeClock) -> None:
    shared = SwitchedAdmission(clock)
    shared.state = "away"
    with pytest.raises(EnforcementUnavailable):
        await a_server(shared, clock).admit(TENANT, ask(enforcement=Enforcement.SHADOW, idempotency=claim()))


@pytest.mark.parametrize(
    ("cost", "left", "reset_s", "retry_after_s"), [(1, 0, 60, 10), (4, 2, 40, 20), (6, 0, 60, 60), (7, 6, 0, 60)]
)
async def test_a_shares_headers_are_right_to_the_unit_and_the_second(
    clock: FakeClock, cost: int, left: int, reset_s: int, retry_after_s: int
) -> None:
    """Six rows a minute, ten seconds each: requests of one size until one is refused."""
    shared = SwitchedAdmission(clock)
    shared.state = "away"
    server = a_server(shared, clock)
    for _ in itertools.count():
        decision = await server.admit(TENANT, ask(cost=cost, rates=(key_rate(12),)))
        if decision.verdict is Verdict.RATE_LIMITED:
            break
    [state] = decision.standing.rates
    assert (state.rule.per_window, state.remaining, state.reset_s) == (6, left, reset_s)
    assert decision.retry_after_s == retry_after_s
    clock.advance(retry_after_s)
    again = await server.admit(TENANT, ask(cost=cost, rates=(key_rate(12),)))
    assert (again.verdict is Verdict.ADMITTED) == (cost <= 6)
