"""A tenant's webhooks, what is on its way to them, and what it has been told of its quota."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.ids import TenantId
from backend.domain.usage_alerts import UsageAlert
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import WebhookEndpoint


class WebhookEndpoints(Protocol):
    """Where a tenant is told what happens."""

    async def add(self, tenant_id: TenantId, endpoint: WebhookEndpoint) -> None:
        """Store a new endpoint."""
        ...

    async def get(self, tenant_id: TenantId, endpoint_id: str) -> WebhookEndpoint | None:
        """Return one of the tenant's endpoints."""
        ...

    async def hold(self, tenant_id: TenantId, endpoint_id: str) -> WebhookEndpoint | None:
        """Return one of the tenant's endpoints, its row locked until the unit ends."""
        ...

    async def keep(self, tenant_id: TenantId) -> tuple[WebhookEndpoint, ...]:
        """Return all of the tenant's endpoints; none of them is deleted before the unit ends."""
        ...

    async def store(self, tenant_id: TenantId, endpoint: WebhookEndpoint) -> None:
        """Store a changed endpoint in place of the one that is there."""
        ...

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[WebhookEndpoint]:
        """Return up to ``limit`` endpoints with an id below ``after``, newest first."""
        ...

    async def delete(self, tenant_id: TenantId, endpoint_id: str) -> None:
        """Take an endpoint away, and all that was sent or is on its way to it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """A delivery whose next attempt is the caller's, and where it goes."""

    delivery: Delivery
    endpoint: WebhookEndpoint


class WebhookDeliveries(Protocol):
    """Messages on their way, and the log of those that were."""

    async def add(self, tenant_id: TenantId, delivery: Delivery) -> None:
        """Store a delivery: it stands or falls with the unit of work that caused it."""
        ...

    async def get(self, tenant_id: TenantId, endpoint_id: str, delivery_id: str) -> Delivery | None:
        """Return one delivery to one of the tenant's endpoints."""
        ...

    async def list(self, tenant_id: TenantId, endpoint_id: str, *, after: str | None, limit: int) -> list[Delivery]:
        """Return up to ``limit`` deliveries to an endpoint with an id below ``after``, newest first."""
        ...

    async def store(self, tenant_id: TenantId, delivery: Delivery) -> bool:
        """Store a changed delivery, unless somebody has begun another attempt meanwhile; say whether it was stored."""
        ...

    async def give_up_pending(self, tenant_id: TenantId, endpoint_id: str) -> int:
        """Let nothing be tried any more that is on its way to an endpoint; return how much."""
        ...

    async def is_any_due_of_all_tenants(self, now: datetime) -> bool:
        """Whether there is anything to claim. Takes no lock."""
        ...

    async def claim_due_of_all_tenants(self, now: datetime, *, limit: int, each: int) -> tuple[ClaimedDelivery, ...]:
        """Claim what is due, the longest due first, at most ``each`` for one endpoint. Nobody else gets the same."""
        ...

    async def forget_before_of_all_tenants(self, instant: datetime) -> int:
        """Delete the deliveries that ended and were made before an instant; return how many."""
        ...


class UsageAlerts(Protocol):
    """Which thresholds of its quotas a tenant has reached, each at most once a period."""

    async def add(self, tenant_id: TenantId, alert: UsageAlert) -> bool:
        """Store an alert; ``False``, and nothing changes, when this threshold was reached before."""
        ...

    async def list(self, tenant_id: TenantId, period: str) -> list[UsageAlert]:
        """Return the alerts of a period."""
        ...
