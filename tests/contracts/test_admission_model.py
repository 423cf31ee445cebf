"""Random interleavings against a plain reference model that keeps a diary instead of counters, in exact fractions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import ceil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.domain.admission import Lease, Verdict
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, RateRule
from tests.contracts.asking import CACHED, Desk, ask, claim, key_quota, key_rate, tenant_quota, tenant_rate
from tests.contracts.stores import LEASE_TTL_S, Store
from tests.fakes import FakeClock, FakeHistory

pytestmark = pytest.mark.anyio

RATES = (key_rate(12), tenant_rate(20))
QUOTAS = (tenant_quota(40), key_quota(25))

_tenants = count()


def _end_s(at_s: float) -> int:
    """Return when a lease expires that was given at an instant."""
    return ceil(at_s + LEASE_TTL_S)


@dataclass
class Diary:
    """What happened to one tenant: nothing is ever subtracted, everything is worked out from the entries."""

    spent: list[tuple[float, int]] = field(default_factory=list)
    leases: dict[str, tuple[float, int]] = field(default_factory=dict)
    ended: dict[str, bool] = field(default_factory=dict)

    def owed(self, rule: RateRule, now_s: float) -> Fraction:
        owed, since = Fraction(0), Fraction(0)
        for at_s, cost in [*self.spent, (now_s, 0)]:
            drained = (Fraction(at_s) - since) * rule.per_window / rule.window_s
            owed, since = max(Fraction(0), owed - drained) + cost, Fraction(at_s)
        return owed

    def used(self) -> int:
        return sum(self.leases[name][1] for name, settled in self.ended.items() if settled)

    def reserved(self, now_s: float) -> int:
        return sum(
            cost for name, (at_s, cost) in self.leases.items() if name not in self.ended and _end_s(at_s) > now_s
        )

    def expected(self, cost: int, now_s: float) -> Verdict:
        if any(self.owed(rule, now_s) + cost > rule.per_window for rule in RATES):
            return Verdict.RATE_LIMITED
        if any(self.used() + self.reserved(now_s) + cost > (rule.limit or 0) for rule in QUOTAS):
            return Verdict.QUOTA_EXCEEDED
        return Verdict.ADMITTED


@dataclass
class Play:
    """One run of the adapter beside its diary."""

    desk: Desk
    diary: Diary = field(default_factory=Diary)
    held: list[Lease] = field(default_factory=list)

    async def admit(self, cost: int) -> None:
        now_s = self.desk.clock.now_s()
        expected = self.diary.expected(cost, now_s)
        request = ask(cost=cost, rates=RATES, quotas=QUOTAS)
        decision = await self.desk.admit(request)
        assert decision.verdict is expected
        if decision.lease is not None:
            self.diary.spent.append((now_s, cost))
            self.diary.leases[request.lease_id] = (now_s, cost)
            self.held.append(decision.lease)
        assert [s.remaining for s in decision.standing.rates] == self._remaining(RATES)
        assert [(s.used, s.reserved) for s in decision.standing.quotas] == self._counted(QUOTAS)

    async def admit_together(self, first: int) -> None:
        """Several of one turn: each is decided as if the others had come before or after it."""
        now_s = self.desk.clock.now_s()
        costs = [first, 1, 14 - first, 2, 1]
        expected = []
        for number, cost in enumerate(costs):
            verdict = self.diary.expected(cost, now_s)
            expected.append(verdict)
            if verdict is Verdict.ADMITTED:
                self.diary.spent.append((now_s, cost))
                self.diary.leases[f"next {number}"] = (now_s, cost)
        requests = [ask(cost=cost, rates=RATES, quotas=QUOTAS, epochs=CACHED) for cost in costs]
        decisions = await self.desk.admit_together(*requests)
        assert [decision.verdict for decision in decisions] == expected
        for number, decision in enumerate(decisions):
            if decision.lease is not None:
                self.diary.leases[decision.lease.id] = self.diary.leases.pop(f"next {number}")
                self.held.append(decision.lease)
        await self.look(0)

    async def settle(self, which: int) -> None:
        if self.held:
            lease = self.held[which % len(self.held)]
            self.diary.ended.setdefault(lease.id, True)
            await self.desk.settle(lease)

    async def settle_together(self, which: int) -> None:
        """Some that are next to each other, settled before or given back among them, and the first once more."""
        some = self.held[which % (len(self.held) + 1) :][:5]
        for lease in some:
            self.diary.ended.setdefault(lease.id, True)
        await self.desk.settle_all([*some, *some[:1]])

    async def release(self, which: int) -> None:
        if self.held:
            lease = self.held[which % len(self.held)]
            self.diary.ended.setdefault(lease.id, False)
            await self.desk.release(lease)

    async def wait(self, quarters: int) -> None:
        self.desk.clock.advance(quarters / 4)

    async def look(self, _: int) -> None:
        standing = await self.desk.look(rates=RATES, quotas=QUOTAS)
        assert [s.remaining for s in standing.rates] == self._remaining(RATES)
        assert [(s.used, s.reserved) for s in standing.quotas] == self._counted(QUOTAS)

    def _remaining(self, rules: tuple[RateRule, ...]) -> list[int]:
        now_s = self.desk.clock.now_s()
        return [int(rule.per_window - self.diary.owed(rule, now_s)) for rule in rules]

    def _counted(self, rules: tuple[QuotaRule, ...]) -> list[tuple[int, int]]:
        now_s = self.desk.clock.now_s()
        return [(self.diary.used(), self.diary.reserved(now_s)) for _ in rules]


ACTS: dict[str, Callable[[Play, int], Awaitable[None]]] = {
    "admit": Play.admit,
    "admit together": Play.admit_together,
    "settle": Play.settle,
    "settle together": Play.settle_together,
    "release": Play.release,
    "wait": Play.wait,
    "look": Play.look,
}

acts = st.one_of(
    st.tuples(st.just("admit"), st.integers(1, 14)),
    st.tuples(st.just("admit together"), st.integers(1, 13)),
    st.tuples(st.just("settle"), st.integers(0, 30)),
    st.tuples(st.just("settle together"), st.integers(0, 30)),
    st.tuples(st.just("release"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.sampled_from([1, 7, 20, 60, 100, 240, 300])),
    st.tuples(st.just("look"), st.just(0)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(acts, min_size=5, max_size=60))
async def test_any_interleaving_decides_as_the_diary_does(
    store: Store, clock: FakeClock, history: FakeHistory, script: list[tuple[str, int]]
) -> None:
    # A tenant of its own for each example, on the same store and the same clock.
    play = Play(Desk(store.open(), clock, history, TenantId(f"ten_{next(_tenants)}")))
    # From then on the credential is known, and may be asked for as cached.
    assert await play.desk.verdict(ask(cost=0)) is Verdict.ADMITTED
    for act, number in script:
        await ACTS[act](play, number)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(st.tuples(st.sampled_from(["ask", "answer", "release", "wait"]), st.integers(0, 2)), max_size=30)
)
async def test_a_slot_is_never_held_by_two(
    store: Store, clock: FakeClock, history: FakeHistory, script: list[tuple[str, int]]
) -> None:
    desk = Desk(store.open(), clock, history, TenantId(f"ten_{next(_tenants)}"))
    running: dict[int, tuple[float, Lease]] = {}
    for act, which in script:
        now_s = clock.now_s()
        if act == "wait":
            clock.advance(20)
        elif act == "ask":
            decision = await desk.admit(ask(idempotency=claim(str(which))))
            alive = which in running and _end_s(running[which][0]) > now_s
            assert (decision.lease is None) == alive
            if decision.lease is not None:
                running[which] = (now_s, decision.lease)
        elif which in running:
            await (desk.settle if act == "answer" else desk.release)(running.pop(which)[1])
