"""Admission shared by many processes: one script decides, spends and reads the cache in one round trip."""

from collections.abc import Sequence
from dataclasses import replace

from backend.adapters.quota_rebuild import Books, QuotaRebuild
from backend.adapters.redis import keys, wire
from backend.adapters.redis.line import Reply, Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.settling import SettlingTogether
from backend.adapters.redis.turns import Turns
from backend.adapters.redis.wordings import Wordings
from backend.domain.admission import (
    AdmissionDecision,
    AdmissionRequest,
    Lease,
    Settlement,
    Standing,
    Verdict,
)
from backend.domain.api_keys import Environment
from backend.domain.clock import Clock, SystemClock
from backend.domain.errors import EnforcementUnavailable
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import (
    QuotaRule,
    RateRule,
    decide_rates,
    period_end_s,
    period_of,
    rate_states,
    whole_seconds,
)
from backend.services.ports import QuotaHistory

VERDICTS = {verdict.encode(): verdict for verdict in Verdict}

MISSING = b"missing"
OTHER_PERIOD = b"other-period"

MOST_TURNS = 5
"""How often one request may be asked again. One turn is the rule; a month's first request takes two. More are only
needed while somebody flushes the server again and again, or sets its clock."""

OVERRUNS = {b"over-rate": Verdict.RATE_LIMITED, b"over-quota": Verdict.QUOTA_EXCEEDED}
"""Admitted in shadow, and what they would have been refused with."""

REFUSED_BY_SLOT = (Verdict.REPLAY, Verdict.IDEMPOTENCY_REUSED, Verdict.IDEMPOTENCY_IN_PROGRESS)


class RedisAdmission:
    """Implements ``Admission`` and ``HealthProbe``.

    When counters were lost (a flush, a failover that had not replicated), they begin again with what the ledger
    holds, before anything is admitted. What remains: a request that was admitted before the loss and recorded after
    the ledger was read is in the ledger, but not in the new counter. So a cap may be passed by the rows that were
    in flight at that moment, once; billing is not touched, and reconciliation finds the difference.

    A call that times out may have been executed: its rate is spent, its quota and slot come back when the lease
    expires.

    Args:
        runner: the way to Redis, which bounds each call and may be shared.
        history: the ledger's sum, asked once per lost counter.
        cache_ttl_s: how long a cached row is served.
        lease_ttl_s: after this, and the rest of its last second, a request that never came back gives its quota and its
            idempotency slot back.
        idempotency_ttl_s: how long an answer can be replayed.
        row_limit_bytes: longer rows are not cached.
        epoch_ttl_s: how long an epoch is kept. An unknown one makes a credential stale, which is safe, but a request
            that read the store before a revocation must not outlive its announcement: keep this well above the key
            cache's lifetime.
        clock: in place of the server's clock. For tests; processes that share a server must share one clock.
    """

    def __init__(
        self,
        runner: ScriptRunner,
        history: QuotaHistory,
        *,
        cache_ttl_s: float,
        lease_ttl_s: float = 60.0,
        idempotency_ttl_s: float = 86_400.0,
        row_limit_bytes: int = 64 * 1024,
        epoch_ttl_s: int = 86_400,
        clock: Clock | None = None,
    ) -> None:
        self._redis = runner
        self._rebuild = QuotaRebuild(history)
        self._keeping = wire.Keeping.of(
            answer_ttl_s=idempotency_ttl_s, row_ttl_s=cache_ttl_s, row_limit_bytes=row_limit_bytes
        )
        self._epoch_ttl_s = epoch_ttl_s
        self._terms = wire.Terms(epoch_ttl_s=epoch_ttl_s, lease_ttl_s=lease_ttl_s)
        self._turns = Turns(runner)
        self._given_clock = clock
        self._local_clock = clock or SystemClock()
        self._wordings = Wordings()
        self._admit = Script("admit")
        self._settle = Script("settle")
        self._together = SettlingTogether(runner, self._wordings, self._keeping, alone=self.settle)
        self._begin = Script("begin")
        self._announce = Script("announce")
        self._used = Script("used")
        self._forget = Script("forget")

    async def admit(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        """Decide one request: epochs, idempotency, limits, quota; read the cache on the way."""
        period = self._period()
        wording = self._wordings.of(tenant_id, request, period)
        numbers = wire.spell_numbers(request, wording, self._terms, self._now_s())
        if request.idempotency is None:
            decision = await self._turns.admit(tenant_id, request, wording, numbers)
            if decision is not None:
                return decision
        for _ in range(MOST_TURNS):
            wording = self._wordings.of(tenant_id, request, period)
            numbers = wire.spell_numbers(request, wording, self._terms, self._now_s())
            call = wire.admit_call(tenant_id, request, wording, numbers)
            reply = await self._redis.run(self._admit, call.keys, call.args)
            word = reply[0] if isinstance(reply[0], bytes) else b""
            if word in VERDICTS:
                return _decision(tenant_id, request, period, VERDICTS[word], reply)
            if word in OVERRUNS:
                admitted = _decision(tenant_id, request, period, Verdict.ADMITTED, reply)
                return replace(admitted, overrun=OVERRUNS[word])
            if word == OTHER_PERIOD:
                period = period_of(wire.read_numbers(reply)[0])
                continue
            books = Books(tenant_id, request.environment, period)
            countable = await self._begin_missing(books, request.quotas, reply, enforces=request.enforces)
            request = replace(request, quotas=countable)
        raise EnforcementUnavailable(retry_after_s=1)

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        """Turn a lease into use, fill the cache and keep the answer."""
        call = wire.settle_call(tenant_id, settlement, self._wordings, self._keeping, now_s=self._now_s())
        if call.keys:
            await self._redis.run(self._settle, call.keys, call.args)

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        """Settle several leases in one call; each that has a slot or an answer in its own, in the same write."""
        await self._together.settle(tenant_id, settlements)

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Give a lease back unused."""
        call = wire.release_call(tenant_id, lease, self._wordings, self._keeping, now_s=self._now_s())
        if call.keys:
            await self._redis.run(self._settle, call.keys, call.args)

    async def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Make every cached copy of the credential (``None``: of the whole tenant) older than ``version`` stale."""
        epoch = (
            keys.tenant_epoch(tenant_id) if credential_id is None else keys.credential_epoch(tenant_id, credential_id)
        )
        await self._redis.run(self._announce, [epoch], [version, self._epoch_ttl_s])

    async def standing(
        self,
        tenant_id: TenantId,
        environment: Environment,
        rates: tuple[RateRule, ...],
        quotas: tuple[QuotaRule, ...],
    ) -> Standing:
        """Return what is left of the limits, spending nothing."""
        period = self._period()
        for _ in range(MOST_TURNS):
            call = wire.look_call(
                tenant_id, environment, rates, quotas, period=period, now_s=self._now_s(), token=new_id("look")
            )
            reply = await self._redis.run(self._admit, call.keys, call.args, writes=False)
            if reply[0] == OTHER_PERIOD:
                period = period_of(wire.read_numbers(reply)[0])
            elif reply[0] == MISSING:
                books = Books(tenant_id, environment, period)
                quotas = await self._begin_missing(books, quotas, reply, enforces=True)
            else:
                seen = wire.read_standing(reply, rates, quotas, period)
                return Standing(rates=rate_states(rates, seen.levels, seen.now_s), quotas=seen.quotas)
        raise EnforcementUnavailable(retry_after_s=1)

    async def recount(self, lease: Lease) -> None:
        """Forget the counters of a lease: the next request begins them with what the ledger holds.

        What other processes have leased at that moment, and book after the ledger was read, is missing from the new
        counter, as after a flush.

        Raises:
            EnforcementUnavailable: Redis does not answer.
        """
        for rule in lease.quotas:
            counter = keys.quota_counter(lease.tenant_id, rule, lease.environment, lease.period)
            await self._redis.run(self._forget, [counter], [])

    @property
    def is_away(self) -> bool:
        """Whether Redis has not answered lately and is left alone."""
        return not self._redis.breaker.is_closed

    async def recovered(self) -> bool:
        """Whether Redis takes calls now. One that was left alone is tried, if it has rested. Never raises."""
        return await self._redis.probe()

    async def settled_units(self, tenant_id: TenantId, environment: Environment, period: str) -> int | None:
        """Return the rows settled on the tenant's quota in a month; ``None`` when no counter of it is left."""
        rule = QuotaRule(scope="tenant", subject=tenant_id, limit=None)
        counter = keys.quota_counter(tenant_id, rule, environment, period)
        [used] = await self._redis.run(self._used, [counter], [], writes=False)
        return None if used is None else int(used)

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Ask the server for a PING, within the bound."""
        status = HealthStatus.OK if await self._redis.answers() else HealthStatus.DOWN
        return (ResourceHealth(name="redis", status=status),)

    async def _begin_missing(
        self, books: Books, quotas: tuple[QuotaRule, ...], reply: Reply, *, enforces: bool
    ) -> tuple[QuotaRule, ...]:
        """Begin the counters that the script did not find; return the rules that now can be counted."""
        kept_s = period_end_s(books.period) - int(self._local_clock.now_s()) + wire.COUNTER_KEPT_S

        async def begin(rule: QuotaRule, token: str, used: int) -> None:
            counter = keys.quota_counter(books.tenant_id, rule, books.environment, books.period)
            await self._redis.run(self._begin, [counter], [token, used, kept_s])

        uncountable = await self._rebuild.run(books, wire.read_missing(reply, quotas), begin, enforces=enforces)
        return tuple([rule for rule in quotas if rule not in uncountable])

    def _period(self) -> str:
        """Return the month by the local clock. The script checks it by its own, which decides."""
        return period_of(self._local_clock.now_s())

    def _now_s(self) -> float:
        return wire.ASK_SERVER if self._given_clock is None else self._given_clock.now_s()


def _decision(
    tenant_id: TenantId, request: AdmissionRequest, period: str, verdict: Verdict, reply: Reply
) -> AdmissionDecision:
    if verdict is Verdict.STALE:
        return AdmissionDecision(verdict=verdict)
    seen = wire.read_standing(reply, request.rates, request.quotas, period)
    standing = Standing(rates=rate_states(request.rates, seen.levels, seen.now_s), quotas=seen.quotas)
    if verdict in REFUSED_BY_SLOT:
        replay = wire.read_answer(reply) if verdict is Verdict.REPLAY else None
        return AdmissionDecision(verdict=verdict, standing=standing, replay=replay)
    if verdict is Verdict.RATE_LIMITED:
        wait_s = decide_rates(request.rates, seen.levels, request.cost, seen.now_s).retry_after_s
        return AdmissionDecision(verdict=verdict, standing=standing, retry_after_s=whole_seconds(wait_s))
    if verdict is Verdict.QUOTA_EXCEEDED:
        wait_s = period_end_s(period) - seen.now_s
        return AdmissionDecision(verdict=verdict, standing=standing, retry_after_s=whole_seconds(wait_s))
    return AdmissionDecision(
        verdict=verdict,
        standing=standing,
        cached=wire.read_rows(reply),
        lease=Lease(
            id=request.lease_id,
            tenant_id=tenant_id,
            credential_id=request.credential_id,
            environment=request.environment,
            period=period,
            cost=request.cost,
            quotas=request.quotas,
            idempotency=request.idempotency,
        ),
    )
