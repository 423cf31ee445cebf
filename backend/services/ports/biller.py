"""Outside billers, and what they are told."""

from typing import Protocol

from backend.domain.ids import TenantId
from backend.domain.usage_pushes import PeriodTotal, Reading


class Biller(Protocol):
    """A program elsewhere that bills tenants by readings of their totals."""

    @property
    def name(self) -> str:
        """What tells this biller from another, so that each is told everything."""
        ...

    async def take(self, reading: Reading) -> None:
        """Return once the biller has a reading. The same reading again changes nothing.

        Raises:
            CallFailed: it did not answer; whether it has the reading is not known.
            BillerRefused: it answered that it does not take it, now or at all.
        """
        ...


class PeriodTotals(Protocol):
    """What tenants' periods come to."""

    async def of_period(self, tenant_id: TenantId, period: str) -> PeriodTotal:
        """Return a period's billable units, corrections included, and whether they are final."""
        ...
