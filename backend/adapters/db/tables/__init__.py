"""The tables, as SQLModel rows. Alembic's migrations create them; ``tests`` hold the two to each other.

What only one dialect has (triggers, grants, the ledger's ``commit_xid``) stands in the migrations.
"""

from backend.adapters.db.tables.billers import BillerCustomerRow, UsagePushRow
from backend.adapters.db.tables.billing import ClosedPeriodRow, ExpiredPeriodRow, PeriodClosingRow, UsageAdjustmentRow
from backend.adapters.db.tables.books import AuditRow, UsageEventRow
from backend.adapters.db.tables.columns import NullableJson, RowNumber, UtcDateTime, table_of
from backend.adapters.db.tables.credentials import (
    ApiKeyRow,
    MailedTokenRow,
    RefreshTokenRow,
    RevokedTokenRow,
    ServiceAccountRow,
    SessionRow,
    SigningKeyRow,
)
from backend.adapters.db.tables.idempotency import IdempotencyRow
from backend.adapters.db.tables.metering import UsageCheckpointRow, UsageRollupRow
from backend.adapters.db.tables.tenancy import (
    InvitationRow,
    MembershipRow,
    PlanRow,
    SubscriptionRow,
    TenantRow,
    UserRow,
)
from backend.adapters.db.tables.webhooks import UsageAlertRow, WebhookDeliveryRow, WebhookEndpointRow

__all__ = [
    "ApiKeyRow",
    "AuditRow",
    "BillerCustomerRow",
    "ClosedPeriodRow",
    "ExpiredPeriodRow",
    "IdempotencyRow",
    "InvitationRow",
    "MailedTokenRow",
    "MembershipRow",
    "NullableJson",
    "PeriodClosingRow",
    "PlanRow",
    "RefreshTokenRow",
    "RevokedTokenRow",
    "RowNumber",
    "ServiceAccountRow",
    "SessionRow",
    "SigningKeyRow",
    "SubscriptionRow",
    "TenantRow",
    "UsageAdjustmentRow",
    "UsageAlertRow",
    "UsageCheckpointRow",
    "UsageEventRow",
    "UsagePushRow",
    "UsageRollupRow",
    "UserRow",
    "UtcDateTime",
    "WebhookDeliveryRow",
    "WebhookEndpointRow",
    "table_of",
]
