"""Admission: everything that is asked before a model runs, in one call; and what is said afterwards, in one."""

from collections.abc import Sequence
from typing import Protocol

from backend.domain.admission import (
    AdmissionDecision,
    AdmissionRequest,
    Lease,
    Settlement,
    Standing,
)
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, RateRule


class Admission(Protocol):
    """Decides requests atomically, across every process that shares its store."""

    async def admit(self, tenant_id: TenantId, request: AdmissionRequest) -> AdmissionDecision:
        """Decide one request: epochs, then idempotency, then limits, then quota; read the cache on the way.

        Nothing is spent unless the verdict is ``ADMITTED``.

        Raises:
            EnforcementUnavailable: the store does not answer and a limit must hold.
        """
        ...

    async def settle(self, tenant_id: TenantId, settlement: Settlement) -> None:
        """Turn a lease into use, fill the cache and keep the answer. A second call changes nothing.

        Raises:
            EnforcementUnavailable: the store does not answer. The event is in the ledger all the same.
        """
        ...

    async def settle_all(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        """Settle several leases of one tenant, in any order: as if each were settled alone, for the price of few.

        Raises:
            EnforcementUnavailable: the store does not answer. Some may be settled; all may be settled again.
        """
        ...

    async def release(self, tenant_id: TenantId, lease: Lease) -> None:
        """Give a lease back unused: quota returns, the idempotency slot is free. A second call changes nothing.

        Raises:
            EnforcementUnavailable: the store does not answer. The lease expires by itself.
        """
        ...

    async def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Make every cached copy of the credential (``None``: of the whole tenant) older than ``version`` stale.

        Raises:
            EnforcementUnavailable: the store does not answer, so other processes do not know yet.
        """
        ...

    async def standing(
        self,
        tenant_id: TenantId,
        environment: Environment,
        rates: tuple[RateRule, ...],
        quotas: tuple[QuotaRule, ...],
    ) -> Standing:
        """Return what is left of the limits, spending nothing.

        Raises:
            EnforcementUnavailable: the store does not answer.
        """
        ...

    async def settled_units(self, tenant_id: TenantId, environment: Environment, period: str) -> int | None:
        """Return the rows settled on the tenant's quota in a month; ``None`` when no counter of it is left.

        Raises:
            EnforcementUnavailable: the store does not answer.
        """
        ...


class QuotaHistory(Protocol):
    """Where admission learns what a month already used, when its own counter is gone."""

    async def units_in_period(
        self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
    ) -> int:
        """Return the units in the ledger for the tenant, or for one credential of it."""
        ...
