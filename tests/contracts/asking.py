"""Requests to admission, each with everything that a test does not care about filled in."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from backend.domain.admission import (
    AdmissionDecision,
    AdmissionRequest,
    Epochs,
    IdempotencyClaim,
    Lease,
    Settlement,
    Standing,
    StoredAnswer,
    Verdict,
)
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement, QuotaRule, RateRule
from backend.domain.plans import QuotaMode
from backend.services.ports import Admission
from tests.fakes import FakeClock, FakeHistory

KEY = "key_a"
TENANT = TenantId("ten_a")
JUST_READ = Epochs(tenant=1, credential=1, fresh=True)
CACHED = Epochs(tenant=1, credential=1)
"""As those that were just read, some time later."""

_lease_ids = count(1)


def key_rate(per_window: int, *, subject: str = KEY) -> RateRule:
    return RateRule(scope="key", subject=subject, per_window=per_window)


def tenant_rate(per_window: int) -> RateRule:
    return RateRule(scope="tenant", subject=TENANT, per_window=per_window)


def model_rate(per_window: int) -> RateRule:
    return RateRule(scope="model", subject="iris", per_window=per_window)


def tenant_quota(limit: int | None, mode: QuotaMode = QuotaMode.HARD) -> QuotaRule:
    return QuotaRule(scope="tenant", subject=TENANT, limit=limit, mode=mode)


def key_quota(limit: int | None, *, subject: str = KEY) -> QuotaRule:
    return QuotaRule(scope="key", subject=subject, limit=limit)


def claim(key: str = "order-1", fingerprint: bytes = b"f" * 32) -> IdempotencyClaim:
    return IdempotencyClaim(key=key, fingerprint=fingerprint)


def ask(
    *,
    cost: int = 1,
    key: str = KEY,
    rates: tuple[RateRule, ...] = (),
    quotas: tuple[QuotaRule, ...] = (),
    environment: Environment = Environment.LIVE,
    epochs: Epochs = JUST_READ,
    idempotency: IdempotencyClaim | None = None,
    cache_keys: tuple[bytes, ...] = (),
    enforcement: Enforcement = Enforcement.ENFORCE,
    others_follow: bool = True,
) -> AdmissionRequest:
    return AdmissionRequest(
        lease_id=f"evt_{next(_lease_ids)}",
        credential_id=key,
        environment=environment,
        epochs=epochs,
        cost=cost,
        rates=rates,
        quotas=quotas,
        idempotency=idempotency,
        cache_keys=cache_keys,
        enforcement=enforcement,
        others_follow=others_follow,
    )


def lease_of(decision: AdmissionDecision) -> Lease:
    assert decision.verdict is Verdict.ADMITTED
    assert decision.lease is not None
    return decision.lease


@dataclass(slots=True)
class Desk:
    """One admission adapter with its clock, its ledger and one tenant, so that tests read as sentences."""

    admission: Admission
    clock: FakeClock
    history: FakeHistory
    tenant: TenantId = TENANT
    last_says_so: bool = False
    """Whether the last of those who ask together says that nobody follows."""

    async def admit(self, request: AdmissionRequest) -> AdmissionDecision:
        return await self.admission.admit(self.tenant, request)

    async def admit_together(self, *requests: AdmissionRequest) -> list[AdmissionDecision]:
        """Ask for several in the same turn of the event loop."""
        *before, last = requests
        asked = [*before, replace(last, others_follow=not self.last_says_so)]
        return await asyncio.gather(*[self.admit(request) for request in asked])

    async def verdict(self, request: AdmissionRequest) -> Verdict:
        return (await self.admit(request)).verdict

    async def settle(
        self, lease: Lease, *, answer: StoredAnswer | None = None, fill: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        await self.admission.settle(self.tenant, Settlement(lease=lease, cache_fill=fill, answer=answer))

    async def settle_all(self, leases: Iterable[Lease]) -> None:
        await self.admission.settle_all(self.tenant, [Settlement(lease=lease) for lease in leases])

    async def release(self, lease: Lease) -> None:
        await self.admission.release(self.tenant, lease)

    async def spend(self, request: AdmissionRequest) -> None:
        """Admit and settle at once, as a request does that succeeds."""
        await self.settle(lease_of(await self.admit(request)))

    async def look(self, *, rates: tuple[RateRule, ...] = (), quotas: tuple[QuotaRule, ...] = ()) -> Standing:
        return await self.admission.standing(self.tenant, Environment.LIVE, rates, quotas)

    async def remaining(self, rule: RateRule) -> int:
        return (await self.look(rates=(rule,))).rates[0].remaining

    async def counted(self, rule: QuotaRule) -> tuple[int, int]:
        """Return what is used and what is reserved."""
        state = (await self.look(quotas=(rule,))).quotas[0]
        return state.used, state.reserved
