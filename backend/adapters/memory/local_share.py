"""What one process can decide alone while the shared admission is away: its share of the rate limits.

The share of a limit is the limit divided by the number of processes, at least one row a minute. All shares together
are never more than the limit, unless that has fewer rows than there are processes.
"""

from dataclasses import replace

from backend.adapters.memory.bounded_map import BoundedMap
from backend.adapters.memory.epochs import KnownEpochs
from backend.domain.admission import AdmissionDecision, AdmissionRequest, Epochs, Lease, Standing, Verdict
from backend.domain.clock import Clock
from backend.domain.ids import TenantId
from backend.domain.limits import (
    NOTHING_OWED,
    RateLevel,
    RateRule,
    RateState,
    decide_rates,
    period_of,
    rate_states,
    whole_seconds,
)


class LocalLease(Lease):
    """A lease that only this process knows of: nothing is reserved of its quotas, they are counted afterwards."""

    __slots__ = ()


class LocalShare:
    """Rate limits and epochs of one process.

    Args:
        clock: decides windows and ages.
        processes: among how many the limits are shared.
        max_subjects: bound on limits and on epochs, each; the least recently used gives way.
    """

    def __init__(self, clock: Clock, *, processes: int, max_subjects: int = 100_000) -> None:
        self._clock = clock
        self._processes = processes
        self._epochs = KnownEpochs(max_subjects)
        self._read_at_s: BoundedMap[tuple[str, str], float] = BoundedMap(max_subjects)
        self._levels: BoundedMap[tuple[str, str, str], RateLevel] = BoundedMap(max_subjects)

    def is_stale(self, tenant_id: TenantId, credential_id: str, epochs: Epochs, *, read_since_s: float) -> bool:
        """Whether a credential has moved on, as far as is known here, or was not read from the store since then."""
        has_moved_on = self._epochs.are_stale(tenant_id, credential_id, epochs)
        name = (tenant_id, credential_id)
        if epochs.fresh:
            self._read_at_s.put(name, self._clock.now_s())
            return has_moved_on
        read_at_s = self._read_at_s.get(name)
        return has_moved_on or read_at_s is None or read_at_s < read_since_s

    def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Remember a version unless a newer one is known."""
        self._epochs.announce(tenant_id, credential_id, version)

    def decide(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        """Decide a request by the share of its rate limits alone."""
        now_s = self._clock.now_s()
        rules = self._shares(request.rates)
        rates = decide_rates(rules, self._stored(tenant_id, rules), request.cost, now_s)
        standing = Standing(rates=rates.states)
        if not rates.allowed and request.enforces:
            wait_s = whole_seconds(rates.retry_after_s)
            return AdmissionDecision(verdict=Verdict.RATE_LIMITED, standing=standing, retry_after_s=wait_s)
        if rates.allowed:
            for rule, level in zip(rules, rates.levels, strict=True):
                self._levels.put((tenant_id, rule.scope, rule.subject), level)
        lease = LocalLease(
            id=request.lease_id,
            tenant_id=tenant_id,
            credential_id=request.credential_id,
            environment=request.environment,
            period=period_of(now_s),
            cost=request.cost,
            quotas=request.quotas,
            idempotency=None,
        )
        overrun = None if rates.allowed else Verdict.RATE_LIMITED
        return AdmissionDecision(verdict=Verdict.ADMITTED, standing=standing, lease=lease, overrun=overrun)

    def states(self, tenant_id: TenantId, rates: tuple[RateRule, ...]) -> tuple[RateState, ...]:
        """Return what is left of the shares."""
        rules = self._shares(rates)
        return rate_states(rules, self._stored(tenant_id, rules), self._clock.now_s())

    def _shares(self, rules: tuple[RateRule, ...]) -> tuple[RateRule, ...]:
        return tuple([replace(rule, per_window=self._share(rule.per_window)) for rule in rules])

    def _share(self, per_window: int) -> int:
        return max(min(1, per_window), per_window // self._processes)

    def _stored(self, tenant_id: TenantId, rules: tuple[RateRule, ...]) -> tuple[RateLevel, ...]:
        levels = self._levels
        return tuple([levels.get((tenant_id, rule.scope, rule.subject)) or NOTHING_OWED for rule in rules])
