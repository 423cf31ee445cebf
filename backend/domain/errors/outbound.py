"""What can go wrong when the service calls somebody else."""

from enum import StrEnum

from backend.domain.errors.base import FieldError
from backend.domain.errors.capacity import Unavailable
from backend.domain.errors.requests import Invalid


class UrlNotAllowed(Invalid):
    """The service may not call this address. ``errors`` says why, and never which address a name stood for."""

    code = "url-not-allowed"
    title = "URL not allowed"
    default_detail = "The service does not call this URL."

    @classmethod
    def because(cls, reason: str) -> "UrlNotAllowed":
        """Return the refusal of a ``url`` field."""
        return cls(errors=(FieldError("/url", reason),))


class CallFailure(StrEnum):
    """Why a call brought no answer."""

    UNRESOLVED = "unresolved"
    NOT_ALLOWED = "not-allowed"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TLS = "tls"
    PROTOCOL = "protocol"


class CallFailed(Unavailable):
    """A call brought no answer; ``reason`` says at which step it ended, ``duration_ms`` after how long."""

    code = "call-failed"
    title = "Call failed"
    default_detail = "The other side did not answer."

    def __init__(
        self, detail: str | None = None, *, reason: CallFailure = CallFailure.UNREACHABLE, duration_ms: int = 0
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.duration_ms = duration_ms


class BillerRefused(Unavailable):
    """An outside biller does not take what it is told; ``status`` is its answer's."""

    code = "biller-refused"
    title = "Biller refused"
    default_detail = "The biller did not take the reading."

    def __init__(self, detail: str | None = None, *, status: int = 0, retry_after_s: int | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.status = status
