"""What outside billers know of tenants."""

from typing import Protocol

from backend.domain.ids import TenantId
from backend.domain.usage_pushes import BillerCustomer, UsagePush


class BillerCustomers(Protocol):
    """Under which ids an outside biller knows tenants."""

    async def get(self, tenant_id: TenantId) -> BillerCustomer | None:
        """Return a tenant's id there."""
        ...

    async def set(self, tenant_id: TenantId, customer_id: str | None) -> None:
        """Set a tenant's id there; ``None`` takes it away, and nothing more is pushed."""
        ...

    async def list_all(self) -> list[BillerCustomer]:
        """Return every tenant that has one, by tenant."""
        ...


class UsagePushes(Protocol):
    """How far billers were told."""

    async def hold(self, tenant_id: TenantId, biller: str, period: str) -> UsagePush | None:
        """Return how far a biller was told of a period; holds off everybody else who asks, until the unit ends."""
        ...

    async def store(self, tenant_id: TenantId, biller: str, push: UsagePush) -> None:
        """Store it in place of what is there."""
        ...

    async def unfinished(self, tenant_id: TenantId, biller: str) -> frozenset[str]:
        """Return the periods whose last reading is not final, or was not taken."""
        ...
