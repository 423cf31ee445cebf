"""The ledger, written and read."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.usage import (
    EventFilter,
    EventPage,
    LedgerPosition,
    PlanUsage,
    SummaryLine,
    SummaryQuery,
    UsageEvent,
    UsageTotal,
)


class Ledger(Protocol):
    """Where usage becomes durable."""

    async def append(
        self, tenant_id: TenantId, event: UsageEvent, meanwhile: Callable[[], object] | None = None
    ) -> None:
        """Return once the event is durable, exactly once. The same event again changes nothing.

        Args:
            tenant_id: whose event it is.
            event: what was used.
            meanwhile: work that can be done while there is nothing to do but to wait. It is called once at the most.

        Raises:
            MeteringUnavailable: it could not be made durable in time.
        """
        ...

    def prepare(self, event: UsageEvent) -> None:
        """Do what can be done already of writing an event that will probably be appended soon."""
        ...


class UsageReader(Protocol):
    """What the ledger holds."""

    async def events(self, tenant_id: TenantId, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """Return events past position ``after`` and below the watermark, in commit order."""
        ...

    async def events_of_all_tenants(self, wanted: EventFilter, after: LedgerPosition, limit: int) -> EventPage:
        """The same for every tenant at once: billing's view."""
        ...

    async def summary(self, tenant_id: TenantId, query: SummaryQuery) -> tuple[SummaryLine, ...]:
        """Return totals by bucket and group, in order of bucket and then of group."""
        ...

    async def event(self, tenant_id: TenantId, event_id: str) -> UsageEvent | None:
        """Return one event."""
        ...

    async def event_of_all_tenants(self, event_id: str) -> UsageEvent | None:
        """Return one event, whoever's it is: a correction names it by its id alone."""
        ...

    async def bounds(self, tenant_id: TenantId, period: str) -> tuple[LedgerPosition, LedgerPosition] | None:
        """Return the first and the last position of a period's events; ``None`` when it has none."""
        ...

    async def is_expired(self, tenant_id: TenantId, period: str) -> bool:
        """Whether the tenant's events of a period are not kept any more."""
        ...

    async def is_expired_of_all_tenants(self, period: str) -> bool:
        """Whether any tenant's events of a period are not kept any more."""
        ...

    async def first_period(self, tenant_id: TenantId) -> str | None:
        """Return the oldest period that the tenant has used anything in, whether its events are kept still or not."""
        ...

    async def units_in_period(
        self, tenant_id: TenantId, environment: Environment, period: str, credential_id: str | None
    ) -> int:
        """Return the units in the ledger for the tenant, or for one credential of it."""
        ...

    async def plan_usage(self, tenant_id: TenantId, period: str) -> tuple[PlanUsage, ...]:
        """Return a period's totals of each plan version that was in force, by plan id."""
        ...


class WaitingUsage(Protocol):
    """Usage that was answered, and is not in the ledger yet because the store was away."""

    async def oldest_at(self) -> datetime | None:
        """Return when the oldest event that waits was served, to within seconds; ``None`` when nothing waits.

        Raises:
            MeteringUnavailable: nobody can say.
        """
        ...


class UsageRollups(Protocol):
    """Sums by the hour, derived from the ledger so that totals need not read all of it."""

    @property
    def batch_events(self) -> int:
        """The most events of one fold."""
        ...

    async def fold_of_all_tenants(self) -> int:
        """Fold the next events below the watermark; return how many. None are left, or another process folds: 0."""
        ...


class UsageMonths(Protocol):
    """The ledger's months, where a store keeps them apart."""

    async def make(self) -> int:
        """Make this month and those ahead; return how many were not there.

        Raises:
            StoreUnavailable: the store does not answer, or somebody is in the way.
        """
        ...


class UsageRetention(Protocol):
    """Lets events expire that nobody has to keep any more; what they came to stays."""

    async def expire(self) -> int:
        """Let every month expire that may; return how many did.

        Raises:
            StoreUnavailable: the store does not answer, or somebody is in the way.
        """
        ...


class UsageTotals(Protocol):
    """What the worker's jobs read of the ledger."""

    async def of_period(self, tenant_id: TenantId, period: str) -> tuple[UsageTotal, ...]:
        """Return a period's sums by environment and credential, as the ledger stands now."""
        ...

    async def active_of_all_tenants(self, after: LedgerPosition) -> tuple[frozenset[TenantId], LedgerPosition]:
        """Return who has events past a position and below the watermark, and where to go on."""
        ...
