"""Quota counters in memory: what is used, and what is leased to requests still running."""

from collections import OrderedDict

from backend.adapters.quota_rebuild import Books, QuotaRebuild
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule
from backend.services.ports import QuotaHistory

CounterName = tuple[str, str, str, str, str]
"""Tenant, scope, subject, environment, period: a new month and a test key each have counters of their own."""

LATE_S = 3600.0
"""How long an expired lease is remembered, so that a settlement that comes late still counts, once."""


class QuotaCounter:
    """One counter. Whoever knows a lease's id may settle or release it once; a second time finds nothing."""

    __slots__ = ("_late", "_leases", "reserved", "used")

    def __init__(self, used: int) -> None:
        self.used = used
        self.reserved = 0
        # Both in order of expiry, which is the order of insertion because every lease lives equally long.
        self._leases: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._late: OrderedDict[str, tuple[float, int]] = OrderedDict()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is leased, so that the ledger alone could tell the count."""
        return not self._leases

    def expire(self, now_s: float) -> None:
        """Give back what was leased to requests that never came back."""
        while self._leases:
            lease_id, (expires_at_s, cost) = next(iter(self._leases.items()))
            if expires_at_s > now_s:
                break
            del self._leases[lease_id]
            self.reserved -= cost
            self._late[lease_id] = (expires_at_s, cost)
        while self._late and next(iter(self._late.values()))[0] + LATE_S <= now_s:
            self._late.popitem(last=False)

    def lease(self, lease_id: str, cost: int, expires_at_s: float) -> None:
        """Reserve rows for one request."""
        self._leases[lease_id] = (expires_at_s, cost)
        self.reserved += cost

    def settle(self, lease_id: str, now_s: float) -> None:
        """Turn a lease into use, also one that has expired meanwhile."""
        self.used += self._take(lease_id, now_s)

    def release(self, lease_id: str, now_s: float) -> None:
        """Give a lease back unused."""
        self._take(lease_id, now_s)

    def _take(self, lease_id: str, now_s: float) -> int:
        self.expire(now_s)
        held = self._leases.pop(lease_id, None)
        if held is not None:
            self.reserved -= held[1]
            return held[1]
        late = self._late.pop(lease_id, None)
        return late[1] if late is not None else 0


class QuotaCounters:
    """All counters, the least recently used first.

    One that is evicted comes back from the ledger at its next use. That is exact for an idle counter only, so a
    counter with leases stays, whatever the bound says.
    """

    def __init__(self, clock: Clock, history: QuotaHistory, *, limit: int) -> None:
        self._clock = clock
        self._rebuild = QuotaRebuild(history)
        self._limit = limit
        self._counters: OrderedDict[CounterName, QuotaCounter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counters)

    def find(self, tenant_id: TenantId, environment: Environment, period: str, rule: QuotaRule) -> QuotaCounter | None:
        """Return a counter, and make it the most recently used."""
        name = (tenant_id, rule.scope, rule.subject, environment, period)
        counter = self._counters.get(name)
        if counter is not None:
            self._counters.move_to_end(name)
        return counter

    async def begin(
        self,
        tenant_id: TenantId,
        environment: Environment,
        period: str,
        rules: tuple[QuotaRule, ...],
        *,
        enforces: bool = True,
    ) -> tuple[QuotaRule, ...]:
        """Begin the missing counters with what the ledger holds; return the rules that now can be counted.

        Raises:
            EnforcementUnavailable: the ledger cannot be read and a cap must hold, where caps are enforced.
        """

        async def begin_one(rule: QuotaRule, _token: str, used: int) -> None:
            name = (tenant_id, rule.scope, rule.subject, environment, period)
            if name in self._counters:
                return
            if len(self._counters) >= self._limit:
                self._evict_one()
            self._counters[name] = QuotaCounter(used)

        missing = {rule: "" for rule in rules if self.find(tenant_id, environment, period, rule) is None}
        books = Books(tenant_id, environment, period)
        uncountable = await self._rebuild.run(books, missing, begin_one, enforces=enforces)
        return tuple([rule for rule in rules if rule not in uncountable])

    def _evict_one(self) -> None:
        now_s = self._clock.now_s()
        for name, counter in self._counters.items():
            counter.expire(now_s)
            if counter.is_idle:
                del self._counters[name]
                return
