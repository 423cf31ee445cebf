"""Refusals of what was asked."""

from backend.domain.errors.base import ForecourtError


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


class KeyNotRotatable(Conflict):
    """An expired or revoked key gets no new secret. Said of the key that is to change, unlike ``KeyExpired``."""

    code = "key-expired"
    title = "Key expired"
    default_detail = "An expired or revoked API key cannot be rotated. Create a new one."


class KeyNotChangeable(Conflict):
    """A revoked key stays as it was. Said of the key that is to change, unlike ``KeyRevoked``."""

    code = "key-revoked"
    title = "Key revoked"
    default_detail = "A revoked API key cannot be changed."


class RotationInProgress(Conflict):
    """The secret before the last rotation still verifies: a second rotation would cut its overlap short."""

    code = "rotation-in-progress"
    title = "Rotation in progress"
    default_detail = "The overlap of the last rotation is still running."


class WebhookLimitReached(Conflict):
    """The tenant has as many webhook endpoints as it may."""

    code = "webhook-limit-reached"
    title = "Webhook limit reached"
    default_detail = "This tenant has as many webhook endpoints as it may. Delete one first."


class WebhookDisabled(Conflict):
    """Nothing is sent to a disabled endpoint."""

    code = "webhook-disabled"
    title = "Webhook disabled"
    default_detail = "This webhook endpoint is disabled. Enable it first."


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency-in-progress"
    title = "Idempotent request in progress"
    default_detail = "A request with this Idempotency-Key is still running."


class VersionInUse(Conflict):
    """A version of a model that an alias points at stays."""

    code = "version-in-use"
    title = "Version in use"
    default_detail = "An alias points at this version. Point it elsewhere first."


class LastOwner(Conflict):
    """A tenant without an owner could never be governed again."""

    code = "last-owner"
    title = "Last owner"
    default_detail = "A tenant keeps at least one owner. Make somebody else an owner first."


class AlreadyMember(Conflict):
    """The invited address has a seat."""

    code = "already-member"
    title = "Already a member"
    default_detail = "This person is a member of the tenant already."


class WatermarkBehind(Conflict):
    """Usage that belongs to the period may still be on its way into the ledger."""

    code = "watermark-behind"
    title = "Watermark behind"
    default_detail = "Usage of this period may still be on its way. It can be closed some time after its end."


class ReconciliationMismatch(Conflict):
    """The ledger and the settled quota differ; ``errors`` says for which tenants."""

    code = "reconciliation-mismatch"
    title = "Reconciliation mismatch"
    default_detail = "The ledger and the settled quota differ, so the period is not closed for these tenants."


class PeriodOpen(Conflict):
    """What is asked for is there once the period is closed."""

    code = "period-open"
    title = "Period open"
    default_detail = "This period is not closed yet."


class RangeNotSatisfiable(ForecourtError):
    """The byte range lies behind the end."""

    code = "range-not-satisfiable"
    title = "Range not satisfiable"
    default_detail = "The bytes asked for lie behind the end."


class Gone(ForecourtError):
    """It was there once and will not come back."""

    code = "gone"
    title = "Gone"


class InvitationExpired(Gone):
    """The invitation's time is over, or it was taken back or accepted before."""

    code = "invitation-expired"
    title = "Invitation expired"
    default_detail = "This invitation cannot be accepted any more. Ask for a new one."


class LinkExpired(Gone):
    """A mailed token that is unknown, used or too old; which of these is not said."""

    code = "link-expired"
    title = "Link expired"
    default_detail = "This link cannot be used any more. Ask for a new one."


class UsageExpired(Gone):
    """The events of this period are not kept any more; what they came to is."""

    code = "usage-expired"
    title = "Usage expired"
    default_detail = "The events of this period are not kept any more. Its totals and its statement are."


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
