"""What every refusal has in common."""

from dataclasses import dataclass
from typing import ClassVar


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
