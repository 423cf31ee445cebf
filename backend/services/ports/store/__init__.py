"""The store of record: one unit of work, and the repositories that are open in it.

Methods on what a tenant owns take its id first. A method that reads across tenants says so in its name.
"""

from backend.services.ports.store.billers import BillerCustomers, UsagePushes
from backend.services.ports.store.billing import Adjustments, Periods
from backend.services.ports.store.credentials import (
    ApiKeys,
    KeyFilter,
    MailedTokens,
    RevokedTokens,
    ServiceAccounts,
    Sessions,
    SigningKeys,
    StoredSigningKey,
)
from backend.services.ports.store.idempotency import IdempotencyRecords, StoredRepetition
from backend.services.ports.store.tenancy import (
    Invitations,
    Memberships,
    Plans,
    Subscriptions,
    TenantFilter,
    Tenants,
    Users,
)
from backend.services.ports.store.unit_of_work import AuditLog, Store, UnitOfWork
from backend.services.ports.store.webhooks import ClaimedDelivery, UsageAlerts, WebhookDeliveries, WebhookEndpoints

__all__ = [
    "Adjustments",
    "ApiKeys",
    "AuditLog",
    "BillerCustomers",
    "ClaimedDelivery",
    "IdempotencyRecords",
    "Invitations",
    "KeyFilter",
    "MailedTokens",
    "Memberships",
    "Periods",
    "Plans",
    "RevokedTokens",
    "ServiceAccounts",
    "Sessions",
    "SigningKeys",
    "Store",
    "StoredRepetition",
    "StoredSigningKey",
    "Subscriptions",
    "TenantFilter",
    "Tenants",
    "UnitOfWork",
    "UsageAlerts",
    "UsagePushes",
    "Users",
    "WebhookDeliveries",
    "WebhookEndpoints",
]
