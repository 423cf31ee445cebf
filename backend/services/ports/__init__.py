"""The outside world, as the services see it: a table of contents.

===================  =========================================  ================================
port                 what it stands for                         adapters
===================  =========================================  ================================
Admission            epochs, limits, quota, idempotency, cache  memory, redis
Ledger               usage events, durable on return            db
UsageReader          what the ledger holds                      db
WaitingUsage         what it does not hold yet                  redis
UsageRollups         sums by the hour, derived from it          db
UsageMonths          the months that it consists of             db
UsageRetention       lets old months expire                     db
UsageTotals          who used how much lately                   db
ModelCatalog         the shared model service                   model_service
ModelRollouts        which versions are served, and as what     model_service
ModelFiles           where versions of models are kept          model_service (a folder), fsspec
Store                opens units of work                        db
UnitOfWork           one transaction and its repositories       db
KeyDirectory         an API key with all that applies to it     db, memory (a cache before it)
KeyUse               when keys were last used                   db
PasswordHasher       slow hashes of passwords                   crypto
Precedence           predictions before logins                  memory
KeyHasher            peppered hashes of API keys                crypto
Sealer               what is kept and read again, encrypted     crypto
TokenIssuer          access tokens                              crypto
SigningKeySmith      fresh keys that sign them                  crypto
OpaqueTokens         refresh tokens, mailed tokens              crypto
CursorCodec          tamper-evident cursors                     crypto
LoginThrottle        growing delays after failed logins         memory, redis
StrangerThrottle     unknown API keys by address                memory
Mailer               delivers mail                              mail (SMTP, files)
Outbox               takes mail off the caller's hands          mail
OutboundHttp         calls to addresses that others named       http
Resolver             the addresses behind a host name           http
Biller               whoever bills tenants elsewhere            http (Stripe, OpenMeter)
PeriodTotals         what periods come to, for a biller         db
Metrics              numbers about the service itself           prometheus, memory (forgets)
HealthProbe          a resource that can say how it is          each of the above that can fail
===================  =========================================  ================================
"""

from backend.services.ports.admission import Admission, QuotaHistory
from backend.services.ports.biller import Biller, PeriodTotals
from backend.services.ports.health import HealthProbe
from backend.services.ports.identity import (
    AccessClaims,
    CursorCodec,
    KeyDirectory,
    KeyHasher,
    KeyUse,
    LoginThrottle,
    OpaqueTokens,
    PasswordHasher,
    Sealer,
    SigningKeySmith,
    StrangerThrottle,
    TokenIssuer,
    UnknownSigningKey,
)
from backend.services.ports.mail import Mailer, Outbox
from backend.services.ports.metering import (
    Ledger,
    UsageMonths,
    UsageReader,
    UsageRetention,
    UsageRollups,
    UsageTotals,
    WaitingUsage,
)
from backend.services.ports.metrics import Counter, Gauge, Histogram, Metrics
from backend.services.ports.model_files import ModelFiles
from backend.services.ports.models import EncodedRows, ModelCatalog, ModelRollouts, ServedModel
from backend.services.ports.outbound import OutboundAnswer, OutboundHttp, Resolver
from backend.services.ports.precedence import Precedence
from backend.services.ports.store import (
    Adjustments,
    ApiKeys,
    AuditLog,
    BillerCustomers,
    ClaimedDelivery,
    IdempotencyRecords,
    Invitations,
    MailedTokens,
    Memberships,
    Periods,
    Plans,
    RevokedTokens,
    ServiceAccounts,
    Sessions,
    SigningKeys,
    Store,
    Subscriptions,
    Tenants,
    UnitOfWork,
    UsageAlerts,
    UsagePushes,
    Users,
    WebhookDeliveries,
    WebhookEndpoints,
)

__all__ = [
    "AccessClaims",
    "Adjustments",
    "Admission",
    "ApiKeys",
    "AuditLog",
    "Biller",
    "BillerCustomers",
    "ClaimedDelivery",
    "Counter",
    "CursorCodec",
    "EncodedRows",
    "Gauge",
    "HealthProbe",
    "Histogram",
    "IdempotencyRecords",
    "Invitations",
    "KeyDirectory",
    "KeyHasher",
    "KeyUse",
    "Ledger",
    "LoginThrottle",
    "MailedTokens",
    "Mailer",
    "Memberships",
    "Metrics",
    "ModelCatalog",
    "ModelFiles",
    "ModelRollouts",
    "OpaqueTokens",
    "OutboundAnswer",
    "OutboundHttp",
    "Outbox",
    "PasswordHasher",
    "PeriodTotals",
    "Periods",
    "Plans",
    "Precedence",
    "QuotaHistory",
    "Resolver",
    "RevokedTokens",
    "Sealer",
    "ServedModel",
    "ServiceAccounts",
    "Sessions",
    "SigningKeySmith",
    "SigningKeys",
    "Store",
    "StrangerThrottle",
    "Subscriptions",
    "Tenants",
    "TokenIssuer",
    "UnitOfWork",
    "UnknownSigningKey",
    "UsageAlerts",
    "UsageMonths",
    "UsagePushes",
    "UsageReader",
    "UsageRetention",
    "UsageRollups",
    "UsageTotals",
    "Users",
    "WaitingUsage",
    "WebhookDeliveries",
    "WebhookEndpoints",
]
