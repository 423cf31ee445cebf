"""The outside world, as the services see it: a table of contents.

===================  =========================================  ================================
port                 what it stands for                         adapters
===================  =========================================  ================================
Admission            epochs, limits, quota, idempotency, cache  memory, redis
Ledger               usage events, durable on return            db
UsageReader          what the ledger holds                      db
ModelCatalog         the shared model service                   model_service
Store                opens units of work                        db
UnitOfWork           one transaction and its repositories       db
KeyDirectory         an API key with all that applies to it     db, memory (a cache before it)
PasswordHasher       slow hashes of passwords                   crypto
KeyHasher            peppered hashes of API keys                crypto
TokenIssuer          access tokens                              crypto
OpaqueTokens         refresh tokens                             crypto
CursorCodec          tamper-evident cursors                     crypto
LoginThrottle        growing delays after failed logins         memory, redis
HealthProbe          a resource that can say how it is          each of the above that can fail
===================  =========================================  ================================
"""

from backend.services.ports.admission import Admission, QuotaHistory
from backend.services.ports.health import HealthProbe
from backend.services.ports.identity import (
    AccessClaims,
    CursorCodec,
    KeyDirectory,
    KeyHasher,
    LoginThrottle,
    OpaqueTokens,
    PasswordHasher,
    TokenIssuer,
)
from backend.services.ports.metering import Ledger, UsageReader
from backend.services.ports.models import EncodedRows, ModelCatalog, ServedModel
from backend.services.ports.store import (
    ApiKeys,
    AuditLog,
    Memberships,
    Plans,
    Sessions,
    SigningKeys,
    Store,
    Subscriptions,
    Tenants,
    UnitOfWork,
    Users,
)

__all__ = [
    "AccessClaims",
    "Admission",
    "ApiKeys",
    "AuditLog",
    "CursorCodec",
    "EncodedRows",
    "HealthProbe",
    "KeyDirectory",
    "KeyHasher",
    "Ledger",
    "LoginThrottle",
    "Memberships",
    "ModelCatalog",
    "OpaqueTokens",
    "PasswordHasher",
    "Plans",
    "QuotaHistory",
    "ServedModel",
    "Sessions",
    "SigningKeys",
    "Store",
    "Subscriptions",
    "Tenants",
    "TokenIssuer",
    "UnitOfWork",
    "UsageReader",
    "Users",
]
