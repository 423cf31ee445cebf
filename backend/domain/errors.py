"""Every refusal the product can give, as facts. The HTTP status of each stands in one table, ``api/errors.py``.

    ForecourtError
    ├── BadRequest             malformed-request, key-in-url
    ├── Unauthenticated        invalid-credentials, key-expired, key-revoked
    ├── Forbidden              insufficient-scope, model-not-allowed, ip-not-allowed, tenant-suspended, …
    ├── NotFound               not-found, model-not-found
    ├── Conflict               idempotency-in-progress, key-limit-reached, already-exists, …
    ├── Invalid                validation-failed, schema-mismatch, idempotency-key-reused, weak-password
    ├── TooMany                too-many-requests, rate-limited, quota-exceeded, concurrency-exceeded
    ├── Unavailable            overloaded, enforcement-unavailable, metering-unavailable, model-unavailable
    ├── DeadlineExceeded       deadline-exceeded
    ├── PayloadTooLarge, UnsupportedEncoding, RequestTimeout, MethodNotAllowed
    └── OAuthError             RFC 6749's own vocabulary, on the token endpoint only

A detail never holds a caller's own value, a secret, a path or SQL: it is sent to the outside.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from backend.domain.admission import Standing


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one place of a request body; ``pointer`` is an RFC 6901 JSON pointer."""

    pointer: str
    detail: str


class ForecourtError(Exception):
    """A refusal with a stable ``code``; ``detail`` is one sentence for a human."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = ""

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: int | None = None,
    ) -> None:
        self.detail = detail or self.default_detail or self.title
        self.errors = errors
        self.retry_after_s = retry_after_s
        super().__init__(self.detail)


class BadRequest(ForecourtError):
    """The message itself cannot be read."""

    code = "malformed-request"
    title = "Malformed request"


class KeyInUrl(BadRequest):
    """A credential was sent in the query string, where proxies and browsers would log it."""

    code = "key-in-url"
    title = "Credential in the URL"
    default_detail = "Send the credential in the Authorization or X-API-Key header, never in the URL."


class PayloadTooLarge(ForecourtError):
    """The body is longer than the service accepts."""

    code = "payload-too-large"
    title = "Payload too large"


class UnsupportedEncoding(ForecourtError):
    """The body is compressed, which this route does not take: a small body could unpack to a huge one."""

    code = "unsupported-encoding"
    title = "Unsupported encoding"
    default_detail = "Send the body without a Content-Encoding."


class RequestTimeout(ForecourtError):
    """The caller took too long to send the body."""

    code = "request-timeout"
    title = "Request timeout"
    default_detail = "The request body did not arrive in time."


class Unauthenticated(ForecourtError):
    """The credential is missing, malformed or not ours; which of these is not said."""

    code = "invalid-credentials"
    title = "Invalid credentials"
    default_detail = "The credential is missing, malformed or unknown."


class KeyExpired(Unauthenticated):
    """The secret verified, and the key's time is over."""

    code = "key-expired"
    title = "Key expired"
    default_detail = "This API key has expired."


class KeyRevoked(Unauthenticated):
    """The secret verified, and the key has been revoked."""

    code = "key-revoked"
    title = "Key revoked"
    default_detail = "This API key has been revoked."


class Forbidden(ForecourtError):
    """The caller is known and may not do this."""

    code = "forbidden"
    title = "Forbidden"


class InsufficientScope(Forbidden):
    """The credential lacks the scope that the route asks for."""

    code = "insufficient-scope"
    title = "Insufficient scope"


class ScopeExceedsGrantor(Forbidden):
    """Somebody tried to hand out more than they hold."""

    code = "scope-exceeds-grantor"
    title = "Scope exceeds grantor"


class ModelNotAllowed(Forbidden):
    """The key's allow-list does not hold the model."""

    code = "model-not-allowed"
    title = "Model not allowed"
    default_detail = "This API key may not call this model."


class AddressNotAllowed(Forbidden):
    """The key's CIDR list does not hold the caller's address."""

    code = "ip-not-allowed"
    title = "Address not allowed"
    default_detail = "This API key may not be used from this address."


class TenantSuspended(Forbidden):
    """The tenant is suspended."""

    code = "tenant-suspended"
    title = "Tenant suspended"
    default_detail = "This tenant is suspended."


class NotFound(ForecourtError):
    """It does not exist, or it is another tenant's: the answer is the same."""

    code = "not-found"
    title = "Not found"
    default_detail = "There is no such resource."


class ModelNotFound(NotFound):
    """No model, version or alias of that name."""

    code = "model-not-found"
    title = "Model not found"
    default_detail = "There is no such model, version or alias."


class MethodNotAllowed(ForecourtError):
    """The path exists, the method does not."""

    code = "method-not-allowed"
    title = "Method not allowed"


class Conflict(ForecourtError):
    """The request contradicts the present state."""

    code = "conflict"
    title = "Conflict"


class AlreadyExists(Conflict):
    """A unique name is taken."""

    code = "already-exists"
    title = "Already exists"


class KeyLimitReached(Conflict):
    """The tenant holds as many API keys as its plan allows."""

    code = "key-limit-reached"
    title = "Key limit reached"
    default_detail = "This tenant holds as many API keys as it may. Revoke one first."


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency-in-progress"
    title = "Idempotent request in progress"
    default_detail = "A request with this Idempotency-Key is still running."


class Invalid(ForecourtError):
    """The body can be read and its content is wrong; ``errors`` points at each place."""

    code = "validation-failed"
    title = "Validation failed"
    default_detail = "The request does not validate."


class SchemaMismatch(Invalid):
    """Input rows do not fit the model's schema."""

    code = "schema-mismatch"
    title = "Schema mismatch"
    default_detail = "The inputs do not fit the model's schema."


class IdempotencyKeyReused(Invalid):
    """The Idempotency-Key was first used with another request."""

    code = "idempotency-key-reused"
    title = "Idempotency-Key reused"
    default_detail = "This Idempotency-Key was first used with a different request."


class WeakPassword(Invalid):
    """The password is too short, too common or built from the account's own words."""

    code = "weak-password"
    title = "Weak password"


class TooMany(ForecourtError):
    """The caller asks for more than it may; ``standing`` says where it stands with its limits."""

    code = "too-many-requests"
    title = "Too many requests"

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after_s: int | None = None,
        standing: "Standing | None" = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.standing = standing


class RateLimited(TooMany):
    """A rate limit of the key or the tenant is used up."""

    code = "rate-limited"
    title = "Rate limited"
    default_detail = "Too many rows in too short a time."


class QuotaExceeded(TooMany):
    """The month's hard quota is used up."""

    code = "quota-exceeded"
    title = "Quota exceeded"
    default_detail = "This month's quota does not hold as many rows."


class ConcurrencyExceeded(TooMany):
    """The tenant has too many rows waiting at once."""

    code = "concurrency-exceeded"
    title = "Concurrency exceeded"
    default_detail = "Too many of this tenant's rows are waiting for this model. Try again shortly."


class Unavailable(ForecourtError):
    """The service cannot answer now and says when to try again."""

    code = "unavailable"
    title = "Service unavailable"


class Overloaded(Unavailable):
    """More work is queued than could be answered in time, or the process is shutting down."""

    code = "overloaded"
    title = "Overloaded"


class EnforcementUnavailable(Unavailable):
    """Limits that must hold cannot be checked."""

    code = "enforcement-unavailable"
    title = "Enforcement unavailable"
    default_detail = "Limits cannot be checked at the moment."


class MeteringUnavailable(Unavailable):
    """Usage cannot be made durable, so nothing may be sold."""

    code = "metering-unavailable"
    title = "Metering unavailable"
    default_detail = "Usage cannot be recorded at the moment."


class StoreUnavailable(Unavailable):
    """The database does not answer."""

    code = "store-unavailable"
    title = "Store unavailable"
    default_detail = "The database does not answer at the moment."


class ModelUnavailable(Unavailable):
    """The model exists and cannot serve: damaged, stuck, or it failed on these rows."""

    code = "model-unavailable"
    title = "Model unavailable"
    default_detail = "This model cannot answer at the moment."


class DeadlineExceeded(ForecourtError):
    """The answer did not come within the caller's X-Deadline-Ms."""

    code = "deadline-exceeded"
    title = "Deadline exceeded"
    default_detail = "The prediction did not finish before the deadline."


class OAuthError(ForecourtError):
    """An RFC 6749 section 5.2 refusal of the token endpoint; ``oauth_code`` is the ``error`` field."""

    code = "oauth-error"
    title = "OAuth error"

    def __init__(self, oauth_code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.oauth_code = oauth_code
