"""Refusals for want of room, of quota or of a part that is down."""

from typing import TYPE_CHECKING

from backend.domain.errors.base import ForecourtError

if TYPE_CHECKING:
    from backend.domain.admission import Standing


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


class MailUnavailable(Unavailable):
    """The mail server does not take a message. No caller waits for it."""

    code = "mail-unavailable"
    title = "Mail unavailable"


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
