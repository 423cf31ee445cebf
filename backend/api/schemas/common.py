"""What every wire model shares."""

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints

from backend.domain.errors import ForecourtError
from backend.domain.scopes import Scope

T = TypeVar("T")


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Instant = Annotated[datetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]
"""RFC 3339 in UTC, to the millisecond."""


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the years 1 to 9999 in UTC") from None


InstantIn = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_in_utc)]
"""An instant as callers send it: RFC 3339 with its offset. It arrives in UTC."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

# Being lenient with a list does not make its entries so.
ScopeIn = Annotated[Scope, Field(strict=False)]


class In(BaseModel):
    """A request body: unknown fields are refused, values are not coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Out(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True)


class Page(Out, Generic[T]):
    """One page of a list."""

    data: list[T]
    has_more: bool = False
    next_cursor: str | None = None


class FieldProblem(Out):
    """One thing wrong with the request."""

    pointer: str = Field(description="RFC 6901 JSON pointer into the body, or /query/<name>, /header/<name>.")
    detail: str


class Problem(Out):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[FieldProblem] | None = None
    retry_after: int | None = None


class OAuthProblem(Out):
    """An RFC 6749 section 5.2 error."""

    error: str
    error_description: str


def example_problem(error: type[ForecourtError], status: int) -> dict[str, object]:
    """Return an example document of an error for the OpenAPI description."""
    return {
        "type": f"urn:forecourt:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.default_detail or error.title,
        "instance": "urn:forecourt:request:req_01JD0000000000000000000000",
        "code": error.code,
        "request_id": "req_01JD0000000000000000000000",
    }
