"""One transaction and what is open in it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from backend.domain.audit import AuditEntry, AuditFilter, AuditRecord, ChainReport
from backend.domain.ids import TenantId
from backend.services.ports.store.billers import BillerCustomers, UsagePushes
from backend.services.ports.store.billing import Adjustments, Periods
from backend.services.ports.store.credentials import (
    ApiKeys,
    MailedTokens,
    RevokedTokens,
    ServiceAccounts,
    Sessions,
    SigningKeys,
)
from backend.services.ports.store.idempotency import IdempotencyRecords
from backend.services.ports.store.tenancy import Invitations, Memberships, Plans, Subscriptions, Tenants, Users
from backend.services.ports.store.webhooks import UsageAlerts, WebhookDeliveries, WebhookEndpoints


class AuditLog(Protocol):
    """What happened, in one chain a tenant."""

    async def record(self, tenant_id: TenantId, entry: AuditEntry) -> None:
        """Append to the tenant's chain; it stands or falls with the unit of work."""
        ...

    async def list(
        self, tenant_id: TenantId, wanted: AuditFilter, *, before_sequence: int | None, limit: int
    ) -> list[AuditRecord]:
        """Return up to ``limit`` records, newest first."""
        ...

    async def verify(self, tenant_id: TenantId) -> ChainReport:
        """Walk the whole chain; say where it breaks first, if it does."""
        ...

    def walk(self, tenant_id: TenantId) -> AsyncIterator[AuditRecord]:
        """Yield the whole chain in order, with bounded memory."""
        ...


class UnitOfWork(Protocol):
    """One transaction: committed when it ends well, rolled back when an exception leaves it."""

    @property
    def tenants(self) -> Tenants:
        """Customers."""
        ...

    @property
    def users(self) -> Users:
        """People."""
        ...

    @property
    def memberships(self) -> Memberships:
        """Seats."""
        ...

    @property
    def invitations(self) -> Invitations:
        """Seats on offer."""
        ...

    @property
    def plans(self) -> Plans:
        """Plan versions."""
        ...

    @property
    def subscriptions(self) -> Subscriptions:
        """Who is on which plan."""
        ...

    @property
    def api_keys(self) -> ApiKeys:
        """API keys."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Logins."""
        ...

    @property
    def revoked_tokens(self) -> RevokedTokens:
        """Access tokens that were revoked."""
        ...

    @property
    def service_accounts(self) -> ServiceAccounts:
        """Programs' accounts."""
        ...

    @property
    def mailed_tokens(self) -> MailedTokens:
        """Tokens that went out by mail."""
        ...

    @property
    def signing_keys(self) -> SigningKeys:
        """Token signing keys."""
        ...

    @property
    def idempotency(self) -> IdempotencyRecords:
        """What creating requests were answered."""
        ...

    @property
    def adjustments(self) -> Adjustments:
        """Corrections of the books."""
        ...

    @property
    def periods(self) -> Periods:
        """Billing periods."""
        ...

    @property
    def audit(self) -> AuditLog:
        """What happened."""
        ...

    @property
    def webhook_endpoints(self) -> WebhookEndpoints:
        """Where a tenant is told what happens."""
        ...

    @property
    def webhook_deliveries(self) -> WebhookDeliveries:
        """What is on its way there."""
        ...

    @property
    def usage_alerts(self) -> UsageAlerts:
        """Which thresholds of its quotas a tenant has reached."""
        ...

    @property
    def biller_customers(self) -> BillerCustomers:
        """Under which ids an outside biller knows tenants."""
        ...

    @property
    def usage_pushes(self) -> UsagePushes:
        """How far it was told."""
        ...

    def after_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run ``action`` once the transaction is durable, before the caller gets its answer."""
        ...


class Store(Protocol):
    """Opens units of work, for services that need more than the one of their request."""

    def unit_of_work(self, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a unit; it commits when the block ends well. A read-only one never waits for writers.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        ...
