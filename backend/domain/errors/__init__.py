"""Every refusal the product can give, as facts. The HTTP status of each stands in one table, ``api/errors.py``.

    ForecourtError
    ├── BadRequest             malformed-request, key-in-url
    ├── Unauthenticated        invalid-credentials, key-expired, key-revoked
    ├── Forbidden              insufficient-scope, model-not-allowed, ip-not-allowed, tenant-suspended, …
    ├── NotFound               not-found, model-not-found
    ├── Conflict               idempotency-in-progress, key-limit-reached, already-exists, period-open, …
    ├── Gone                   invitation-expired, link-expired, usage-expired
    ├── Invalid                validation-failed, schema-mismatch, idempotency-key-reused, weak-password, …
    ├── TooMany                too-many-requests, rate-limited, quota-exceeded, concurrency-exceeded
    ├── Unavailable            overloaded, enforcement-unavailable, metering-unavailable, model-unavailable, …
    ├── DeadlineExceeded       deadline-exceeded
    ├── RangeNotSatisfiable, PayloadTooLarge, UnsupportedEncoding, RequestTimeout, MethodNotAllowed
    └── OAuthError             RFC 6749's own vocabulary, on the token endpoint only

A detail never holds a caller's own value, a secret, a path or SQL: it is sent to the outside.
"""

from backend.domain.errors.access import (
    AddressNotAllowed,
    Forbidden,
    InsufficientScope,
    KeyExpired,
    KeyRevoked,
    ModelNotAllowed,
    OAuthError,
    ReauthenticationRequired,
    RoleNotGrantable,
    ScopeExceedsGrantor,
    TenantSuspended,
    Unauthenticated,
)
from backend.domain.errors.base import (
    FieldError,
    ForecourtError,
)
from backend.domain.errors.capacity import (
    ConcurrencyExceeded,
    DeadlineExceeded,
    EnforcementUnavailable,
    MailUnavailable,
    MeteringUnavailable,
    ModelUnavailable,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
    TooMany,
    Unavailable,
)
from backend.domain.errors.outbound import BillerRefused, CallFailed, CallFailure, UrlNotAllowed
from backend.domain.errors.requests import (
    AlreadyExists,
    AlreadyMember,
    BadRequest,
    Conflict,
    Gone,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    Invalid,
    InvitationExpired,
    KeyInUrl,
    KeyLimitReached,
    KeyNotChangeable,
    KeyNotRotatable,
    LastOwner,
    LinkExpired,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    PayloadTooLarge,
    PeriodOpen,
    RangeNotSatisfiable,
    ReconciliationMismatch,
    RequestTimeout,
    RotationInProgress,
    SchemaMismatch,
    UnsupportedEncoding,
    UsageExpired,
    VersionInUse,
    WatermarkBehind,
    WeakPassword,
    WebhookDisabled,
    WebhookLimitReached,
)

__all__ = [
    "AddressNotAllowed",
    "AlreadyExists",
    "AlreadyMember",
    "BadRequest",
    "BillerRefused",
    "CallFailed",
    "CallFailure",
    "ConcurrencyExceeded",
    "Conflict",
    "DeadlineExceeded",
    "EnforcementUnavailable",
    "FieldError",
    "Forbidden",
    "ForecourtError",
    "Gone",
    "IdempotencyInProgress",
    "IdempotencyKeyReused",
    "InsufficientScope",
    "Invalid",
    "InvitationExpired",
    "KeyExpired",
    "KeyInUrl",
    "KeyLimitReached",
    "KeyNotChangeable",
    "KeyNotRotatable",
    "KeyRevoked",
    "LastOwner",
    "LinkExpired",
    "MailUnavailable",
    "MeteringUnavailable",
    "MethodNotAllowed",
    "ModelNotAllowed",
    "ModelNotFound",
    "ModelUnavailable",
    "NotFound",
    "OAuthError",
    "Overloaded",
    "PayloadTooLarge",
    "PeriodOpen",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RateLimited",
    "ReauthenticationRequired",
    "ReconciliationMismatch",
    "RequestTimeout",
    "RoleNotGrantable",
    "RotationInProgress",
    "SchemaMismatch",
    "ScopeExceedsGrantor",
    "StoreUnavailable",
    "TenantSuspended",
    "TooMany",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedEncoding",
    "UrlNotAllowed",
    "UsageExpired",
    "VersionInUse",
    "WatermarkBehind",
    "WeakPassword",
    "WebhookDisabled",
    "WebhookLimitReached",
]
