"""The shared admission, with this process's share of the limits to fall back on.

While the shared admission is away:

=====================  =============================================================================================
rate limits            each process holds its share of them, beginning with a whole one
hard quotas            503 ``enforcement-unavailable``: nobody could say what is left
other quotas           not asked, nor is any in shadow; the use is in the ledger, and counted from there afterwards
``Idempotency-Key``    503: whether the request ran before cannot be told, and guessing would charge it twice
response cache         bypassed
revocations            every credential is read from the store again each ``STALE_S``
ends of leases         kept, and told when it is back
=====================  =============================================================================================

When it is back, each credential is read from the store once more before its cached copy counts: somebody may have
revoked it, and have gone before it could be announced.
"""

import asyncio
import math
from collections.abc import Sequence

from backend.adapters.fallback.backlog import Backlog, SharedAdmission
from backend.adapters.memory.local_share import LocalLease, LocalShare
from backend.adapters.single_flight import SingleFlight
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
from backend.domain.errors import EnforcementUnavailable, Unavailable
from backend.domain.health import HealthStatus, ResourceHealth
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, QuotaState, RateRule, period_end_s, period_of
from backend.services.ports import Metrics, QuotaHistory

STALE_S = 1.0
"""How long a credential is believed without being read again, while nobody would tell of its revocation."""

CATCH_UP_WITHIN_S = 0.025
"""How long a request waits until the shared admission has been told of what it missed. The wait for its decision comes
on top, and both together stay below what is promised for a refusal."""

ON_ITS_OWN = "Each server holds its share of the rate limits; hard quotas and Idempotency-Key are refused."


class FallbackAdmission:
    """Implements ``Admission`` and ``HealthProbe``.

    Args:
        shared: decides as long as it answers.
        local: decides while it does not.
        history: what a month used, where only the ledger can say.
        clock: ages of credentials.
        metrics: counts what was decided here.
        distrust_s: for how long after an outage a credential from a cache has to be read again first: as long as one
            may stay in a cache.
    """

    def __init__(
        self,
        shared: SharedAdmission,
        local: LocalShare,
        history: QuotaHistory,
        clock: Clock,
        metrics: Metrics,
        *,
        distrust_s: float,
    ) -> None:
        self._shared = shared
        self._local = local
        self._history = history
        self._clock = clock
        self._distrust_s = distrust_s
        self._backlog = Backlog()
        self._deliveries = SingleFlight()
        self._is_alone = False
        self._is_wary = False
        self._back_at_s = -math.inf
        outcomes = (*Verdict, "refused")
        self._decided = {
            outcome: metrics.counter(
                "forecourt_admission_fallback_total",
                "Requests decided by one server while the shared admission was away.",
                outcome=str(outcome),
            )
            for outcome in outcomes
        }

    async def admit(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        """Decide one request, alone if need be.

        Raises:
            EnforcementUnavailable: the shared admission is away and the request asks for what only it can promise.
        """
        if self._shared.is_away:
            self._is_alone = self._is_wary = True
            return self._decide_alone(tenant_id, request)
        if self._backlog and request.needs_counters and not await self._is_caught_up():
            # A cap must not be measured by a counter that still lacks what was used here.
            return self._decide_alone(tenant_id, request)
        if self._is_wary and self._is_unread(tenant_id, request):
            return AdmissionDecision(verdict=Verdict.STALE)
        try:
            return await self._shared.admit(tenant_id, request)
        except EnforcementUnavailable:
            return self._decide_alone(tenant_id, request)

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        """Turn a lease into use, now or when the shared admission is back."""
        if isinstance(settlement.lease, LocalLease):
            self._backlog.recount(settlement.lease)
            return
        try:
            await self._shared.settle(tenant_id, settlement)
        except EnforcementUnavailable:
            self._backlog.end(settlement)

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        """Turn several leases into use, now or when the shared admission is back."""
        shared = [settlement for settlement in settlements if not isinstance(settlement.lease, LocalLease)]
        if len(shared) < len(settlements):
            for settlement in settlements:
                if isinstance(settlement.lease, LocalLease):
                    self._backlog.recount(settlement.lease)
        if not shared:
            return
        try:
            await self._shared.settle_all(tenant_id, shared)
        except EnforcementUnavailable:
            for settlement in shared:
                self._backlog.end(settlement)

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Give a lease back, now or when the shared admission is back."""
        if isinstance(lease, LocalLease):
            return
        try:
            await self._shared.release(tenant_id, lease)
        except EnforcementUnavailable:
            self._backlog.end(lease)

    async def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Make older copies stale: here at once, elsewhere as soon as the shared admission can be told."""
        self._local.announce(tenant_id, credential_id, version)
        try:
            await self._shared.announce(tenant_id, credential_id, version)
        except EnforcementUnavailable:
            self._backlog.announce(tenant_id, credential_id, version)

    async def standing(
        self,
        tenant_id: TenantId,
        environment: Environment,
        rates: tuple[RateRule, ...],
        quotas: tuple[QuotaRule, ...],
    ) -> Standing:
        """Return what is left of the limits; alone, of this process's share and of what the ledger says.

        Raises:
            EnforcementUnavailable: neither the shared admission nor the ledger answers.
        """
        try:
            return await self._shared.standing(tenant_id, environment, rates, quotas)
        except EnforcementUnavailable as away:
            try:
                booked = tuple([await self._booked(tenant_id, environment, rule) for rule in quotas])
            except Unavailable:
                raise away from None
            return Standing(rates=self._local.states(tenant_id, rates), quotas=booked)

    async def settled_units(self, tenant_id: TenantId, environment: Environment, period: str) -> int | None:
        """Return the rows settled on the tenant's quota in a month, as the shared admission knows them.

        Raises:
            EnforcementUnavailable: it is away, or has not been told everything yet.
        """
        if self._shared.is_away:
            raise EnforcementUnavailable(retry_after_s=1)
        if self._backlog:
            await self.catch_up()
        return await self._shared.settled_units(tenant_id, environment, period)

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Report the shared admission's own word; while it is away, predictions are still served."""
        return tuple(
            [
                ResourceHealth(name=line.name, status=HealthStatus.DEGRADED, detail=ON_ITS_OWN)
                if line.status is HealthStatus.DOWN
                else line
                for line in await self._shared.check()
            ]
        )

    async def catch_up(self) -> None:
        """Look whether the shared admission is back, and tell it what it missed. To be called again and again.

        Nobody else asks for it: no caller waits for what may still be dead.
        """
        if self._shared.is_away:
            self._is_alone = self._is_wary = True
        if self._is_alone or self._backlog:
            await self._deliveries.run("backlog", self._deliver)

    async def _is_caught_up(self) -> bool:
        """Whether nothing is left to be told, after a short wait. The telling goes on without whoever waited."""
        try:
            async with asyncio.timeout(CATCH_UP_WITHIN_S):
                await self.catch_up()
        except TimeoutError:
            return False
        return not self._backlog

    async def _deliver(self) -> None:
        if not await self._shared.recovered():
            return
        try:
            await self._backlog.deliver(self._shared)
        except EnforcementUnavailable:
            return
        if self._is_alone:
            self._is_alone = False
            self._back_at_s = self._clock.now_s()

    def _is_unread(self, tenant_id: TenantId, request: AdmissionRequest) -> bool:
        """Whether a credential may have been revoked without a word, because it was not read again since."""
        now_s = self._clock.now_s()
        if not self._is_alone and now_s >= self._back_at_s + self._distrust_s:
            self._is_wary = False
            return False
        since_s = now_s - STALE_S if self._is_alone else self._back_at_s
        return self._local.is_stale(tenant_id, request.credential_id, request.epochs, read_since_s=since_s)

    def _decide_alone(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        if request.idempotency is not None or request.needs_counters:
            self._decided["refused"].add()
            detail = None if request.idempotency is None else "An Idempotency-Key cannot be honoured at the moment."
            raise EnforcementUnavailable(detail, retry_after_s=1)
        since_s = self._clock.now_s() - STALE_S
        if self._local.is_stale(tenant_id, request.credential_id, request.epochs, read_since_s=since_s):
            decision = AdmissionDecision(verdict=Verdict.STALE)
        else:
            decision = self._local.decide(tenant_id, request)
        self._decided[decision.verdict].add()
        return decision

    async def _booked(self, tenant_id: TenantId, environment: Environment, rule: QuotaRule) -> QuotaState:
        period = period_of(self._clock.now_s())
        credential_id = rule.subject if rule.scope == "key" else None
        used = await self._history.units_in_period(tenant_id, environment, period, credential_id)
        return QuotaState(rule=rule, used=used, reserved=0, resets_at_s=period_end_s(period))
