"""Admission in one process: plain Python between two awaits is atomic on one event loop."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.adapters.memory.bounded_map import BoundedMap
from backend.adapters.memory.change_signal import ChangeSignal, NoSignal
from backend.adapters.memory.epochs import KnownEpochs
from backend.adapters.memory.idempotency import IdempotencySlots, slot_name, slot_of
from backend.adapters.memory.quotas import QuotaCounter, QuotaCounters
from backend.domain.admission import (
    AdmissionDecision,
    AdmissionRequest,
    Lease,
    Settlement,
    Standing,
    Verdict,
)
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.ids import TenantId
from backend.domain.limits import (
    NOTHING_OWED,
    QuotaRule,
    QuotaState,
    RateLevel,
    RateRule,
    decide_rates,
    period_end_s,
    period_of,
    rate_states,
    whole_seconds,
)
from backend.services.ports import QuotaHistory

ROW_OVERHEAD_BYTES = 250
"""What a cached row weighs beyond its own bytes, measured on CPython: key tuple, digest, entry."""


@dataclass(slots=True, kw_only=True)
class _Question:
    """One request at one instant, with the counters it is about."""

    tenant_id: TenantId
    request: AdmissionRequest
    now_s: float
    period: str
    counters: list[QuotaCounter]


class MemoryAdmission:
    """Implements ``Admission`` and ``HealthProbe``.

    A quota's counter begins with what the ledger holds, at its first use in this process. Use is exact as long as
    every settlement follows its event: what was admitted under an earlier set of quotas and is recorded while the
    ledger is being read may be missing from a counter that begins just then, never from the ledger.

    Args:
        clock: decides windows, periods and expiry.
        history: the ledger's sum, asked once per counter.
        cache_bytes: bound on the response cache.
        cache_ttl_s: how long a cached row is served.
        lease_ttl_s: after this, and the rest of its last second, a request that never came back gives its quota and its
            idempotency slot back.
        idempotency_ttl_s: how long an answer can be replayed.
        idempotency_bytes: bound on the answers kept for replay.
        signal: tells the key caches of other processes on this machine what is announced here.
        max_subjects: bound on limits, counters and epochs, each. An evicted limit is whole again, an evicted
            counter comes back from the ledger, an evicted epoch makes its credential stale.
    """

    def __init__(
        self,
        clock: Clock,
        history: QuotaHistory,
        *,
        cache_bytes: int,
        cache_ttl_s: float,
        lease_ttl_s: float = 60.0,
        idempotency_ttl_s: float = 86_400.0,
        idempotency_bytes: int = 64 * 1024 * 1024,
        max_subjects: int = 100_000,
        signal: ChangeSignal | None = None,
    ) -> None:
        self._clock = clock
        self._signal = signal or NoSignal()
        self._cache_ttl_s = cache_ttl_s
        self._lease_ttl_s = lease_ttl_s
        self._epochs = KnownEpochs(max_subjects)
        self._levels: BoundedMap[tuple[str, str, str], RateLevel] = BoundedMap(max_subjects)
        self._quotas = QuotaCounters(clock, history, limit=max_subjects)
        self._slots = IdempotencySlots(ttl_s=idempotency_ttl_s, limit_bytes=idempotency_bytes)
        self._cache: BoundedMap[tuple[str, bytes], bytes] = BoundedMap(cache_bytes)

    async def admit(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        """Decide one request: epochs, idempotency, limits, quota; read the cache on the way."""
        while True:
            now_s = self._clock.now_s()
            if self._epochs.are_stale(tenant_id, request.credential_id, request.epochs):
                return AdmissionDecision(verdict=Verdict.STALE)
            period = period_of(now_s)
            counters = self._counters(tenant_id, request.environment, period, request.quotas)
            if len(counters) == len(request.quotas):
                return self._decide(
                    _Question(tenant_id=tenant_id, request=request, now_s=now_s, period=period, counters=counters)
                )
            countable = await self._quotas.begin(
                tenant_id, request.environment, period, request.quotas, enforces=request.enforces
            )
            # Time has passed meanwhile: the question is asked again from the top.
            request = replace(request, quotas=countable)

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        """Turn a lease into use, fill the cache and keep the answer."""
        now_s, lease = self._clock.now_s(), settlement.lease
        for counter in self._counters(tenant_id, lease.environment, lease.period, lease.quotas):
            counter.settle(lease.id, now_s)
        slot = slot_of(tenant_id, lease)
        if slot is not None:
            self._slots.finish(slot, lease.id, settlement.answer, now_s)
        for digest, row in settlement.cache_fill:
            self._cache.put(
                (tenant_id, digest),
                _compact(row),
                weight=len(row) + ROW_OVERHEAD_BYTES,
                expires_at_s=now_s + self._cache_ttl_s,
            )

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        """Settle several leases."""
        for settlement in settlements:
            await self.settle(tenant_id, settlement)

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Give a lease back unused."""
        now_s = self._clock.now_s()
        for counter in self._counters(tenant_id, lease.environment, lease.period, lease.quotas):
            counter.release(lease.id, now_s)
        slot = slot_of(tenant_id, lease)
        if slot is not None:
            self._slots.finish(slot, lease.id, None, now_s)

    async def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Make every cached copy of the credential (``None``: of the whole tenant) older than ``version`` stale."""
        self._epochs.announce(tenant_id, credential_id, version)
        self._signal.ring()

    async def standing(
        self,
        tenant_id: TenantId,
        environment: Environment,
        rates: tuple[RateRule, ...],
        quotas: tuple[QuotaRule, ...],
    ) -> Standing:
        """Return what is left of the limits, spending nothing."""
        while True:
            now_s = self._clock.now_s()
            period = period_of(now_s)
            counters = self._counters(tenant_id, environment, period, quotas)
            if len(counters) == len(quotas):
                return Standing(
                    rates=rate_states(rates, self._stored_levels(tenant_id, rates), now_s),
                    quotas=_quota_states(quotas, counters, period, now_s),
                )
            quotas = await self._quotas.begin(tenant_id, environment, period, quotas, enforces=True)

    async def settled_units(self, tenant_id: TenantId, environment: Environment, period: str) -> int | None:
        """Return the rows settled on the tenant's quota in a month; ``None`` when no counter of it is left."""
        rule = QuotaRule(scope="tenant", subject=tenant_id, limit=None)
        counter = self._quotas.find(tenant_id, environment, period, rule)
        return None if counter is None else counter.used

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Report that it is well: memory does not fail on its own."""
        return (ResourceHealth(name="admission", status=HealthStatus.OK),)

    def _decide(self, asked: _Question) -> AdmissionDecision:
        """Refuse, or spend everything at once. There is no await in here, and there must be none."""
        request, now_s = asked.request, asked.now_s
        stored = self._stored_levels(asked.tenant_id, request.rates)
        quotas = _quota_states(request.quotas, asked.counters, asked.period, now_s)
        claim = request.idempotency
        if claim is not None:
            answered = self._slots.ask(slot_name(asked.tenant_id, request.credential_id, claim), claim, now_s)
            if answered is not None:
                standing = Standing(rates=rate_states(request.rates, stored, now_s), quotas=quotas)
                return AdmissionDecision(verdict=answered[0], standing=standing, replay=answered[1])
        rates = decide_rates(request.rates, stored, request.cost, now_s)
        overrun, wait_s, states = None, 0.0, rates.states
        if not rates.allowed:
            overrun, wait_s = Verdict.RATE_LIMITED, rates.retry_after_s
        elif not all(state.admits(request.cost) for state in quotas):
            overrun, wait_s = Verdict.QUOTA_EXCEEDED, period_end_s(asked.period) - now_s
            states = rate_states(request.rates, stored, now_s)
        if overrun is not None and request.enforces:
            standing = Standing(rates=states, quotas=quotas)
            return AdmissionDecision(verdict=overrun, standing=standing, retry_after_s=whole_seconds(wait_s))
        lease = self._spend(asked, rates.levels if overrun is None else None)
        return AdmissionDecision(
            verdict=Verdict.ADMITTED,
            standing=Standing(rates=states, quotas=tuple([state.with_reserved(request.cost) for state in quotas])),
            cached=tuple([self._cache.get((asked.tenant_id, key), now_s) for key in request.cache_keys]),
            lease=lease,
            overrun=overrun,
        )

    def _spend(self, asked: _Question, levels: tuple[RateLevel, ...] | None) -> Lease:
        """Take a lease and, unless the rate limits are to stay as they are, store their new levels."""
        tenant_id, request = asked.tenant_id, asked.request
        expires_at_s = math.ceil(asked.now_s + self._lease_ttl_s)
        if levels is not None:
            for rule, level in zip(request.rates, levels, strict=True):
                self._levels.put((tenant_id, rule.scope, rule.subject), level)
        for counter in asked.counters:
            counter.lease(request.lease_id, request.cost, expires_at_s)
        if request.idempotency is not None:
            self._slots.hold(
                slot_name(tenant_id, request.credential_id, request.idempotency),
                request.idempotency,
                request.lease_id,
                now_s=asked.now_s,
                expires_at_s=expires_at_s,
            )
        return Lease(
            id=request.lease_id,
            tenant_id=tenant_id,
            credential_id=request.credential_id,
            environment=request.environment,
            period=asked.period,
            cost=request.cost,
            quotas=request.quotas,
            idempotency=request.idempotency,
        )

    def _stored_levels(self, tenant_id: TenantId, rules: tuple[RateRule, ...]) -> tuple[RateLevel, ...]:
        levels = self._levels
        return tuple([levels.get((tenant_id, rule.scope, rule.subject)) or NOTHING_OWED for rule in rules])

    def _counters(
        self, tenant_id: TenantId, environment: Environment, period: str, rules: tuple[QuotaRule, ...]
    ) -> list[QuotaCounter]:
        """Return the counters of the rules, without those that have not begun."""
        found = [self._quotas.find(tenant_id, environment, period, rule) for rule in rules]
        return [counter for counter in found if counter is not None]


def _quota_states(
    rules: tuple[QuotaRule, ...], counters: list[QuotaCounter], period: str, now_s: float
) -> tuple[QuotaState, ...]:
    resets_at_s = period_end_s(period)
    states = []
    for rule, counter in zip(rules, counters, strict=True):
        counter.expire(now_s)
        states.append(QuotaState(rule=rule, used=counter.used, reserved=counter.reserved, resets_at_s=resets_at_s))
    return tuple(states)


def _compact(row: bytes) -> bytes:
    """Copy a row that is kept: what the JSON writer returns goes on holding four kilobytes, however short it is."""
    return b"".join((row, b""))
