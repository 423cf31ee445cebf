"""What is booked after the fact: adjustments, and periods that are closed."""

from datetime import datetime
from typing import Protocol

from backend.domain.adjustments import AdjustedUsage, Adjustment, StoredAdjustment
from backend.domain.billing_periods import ClosedPeriod, PeriodState
from backend.domain.ids import TenantId
from backend.domain.usage import LedgerPosition


class Adjustments(Protocol):
    """Signed rows that correct the books; only ever added to."""

    async def add(self, tenant_id: TenantId, adjustment: Adjustment) -> None:
        """Book an adjustment. Its period cannot begin to close before it is."""
        ...

    async def page(
        self, tenant_id: TenantId, period: str | None, after: LedgerPosition, limit: int
    ) -> list[StoredAdjustment]:
        """Return adjustments booked in a period, or in any, past ``after`` and below the watermark, in commit order."""
        ...

    async def page_of_all_tenants(
        self, period: str | None, after: LedgerPosition, limit: int
    ) -> list[StoredAdjustment]:
        """The same for every tenant at once."""
        ...

    async def billable_of_event(self, tenant_id: TenantId, event_id: str) -> int:
        """Return what an event has been corrected by so far."""
        ...

    async def billable_of_period(self, tenant_id: TenantId, period: str) -> int:
        """Return what a period has been corrected by so far."""
        ...

    async def adjusted(self, tenant_id: TenantId, period: str) -> tuple[AdjustedUsage, ...]:
        """Return what is booked in a period, by what it corrects, with what was booked for the same before."""
        ...

    async def totals(self, tenant_id: TenantId, period: str) -> tuple[int, int, int]:
        """Return how many adjustments are booked in a period, their units and their billable units."""
        ...


class Periods(Protocol):
    """Tenants' billing periods: open, closing once that is said of one, closed once it is kept what it came to."""

    async def hold(self, tenant_id: TenantId, period: str) -> None:
        """Keep everybody from adding to a period, and from closing it, until this unit ends."""
        ...

    async def begin_close(self, tenant_id: TenantId, period: str, at: datetime) -> None:
        """Settle what belongs to a period; doing it again changes nothing."""
        ...

    async def state(self, tenant_id: TenantId, period: str) -> PeriodState:
        """Return how far a period is."""
        ...

    async def is_settled(self, tenant_id: TenantId, period: str) -> bool:
        """Whether all that belongs to a closing period can be seen."""
        ...

    async def add(self, tenant_id: TenantId, closed: ClosedPeriod) -> bool:
        """Keep what a period came to; return whether nobody had."""
        ...

    async def closed(self, tenant_id: TenantId, period: str) -> ClosedPeriod | None:
        """Return what a closed period came to."""
        ...

    async def begun(self, tenant_id: TenantId) -> tuple[str, ...]:
        """Return the tenant's periods that are closing or closed, oldest first."""
        ...

    async def closed_of_all_tenants(self, period: str) -> frozenset[str]:
        """Return the ids of the tenants whose period is closed."""
        ...

    async def unfinished_of_all_tenants(self) -> tuple[tuple[TenantId, str], ...]:
        """Return the periods that are closing, oldest first."""
        ...
