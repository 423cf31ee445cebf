"""Declares in OpenAPI which refusals a route can give."""

from typing import Any

from backend.api.errors import status_of
from backend.api.schemas.common import Problem, example_problem
from backend.domain import errors
from backend.domain.errors import ForecourtError

# What any route behind the middleware and the store can answer.
_EVERYWHERE: tuple[type[ForecourtError], ...] = (
    errors.KeyInUrl,
    errors.MethodNotAllowed,
    errors.RequestTimeout,
    errors.PayloadTooLarge,
    errors.UnsupportedEncoding,
    errors.Invalid,
    errors.ForecourtError,
    errors.StoreUnavailable,
)
_TO_CALLERS: tuple[type[ForecourtError], ...] = (
    errors.Unauthenticated,
    errors.KeyExpired,
    errors.KeyRevoked,
    errors.InsufficientScope,
    errors.TenantSuspended,
    errors.AddressNotAllowed,
    errors.TooMany,
)


def refusals(*particular: type[ForecourtError], public: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the ``responses`` of a route: what all routes refuse, what authenticated ones do, and its own."""
    by_status: dict[int, list[type[ForecourtError]]] = {}
    for error in (*_EVERYWHERE, *(() if public else _TO_CALLERS), *particular):
        by_status.setdefault(status_of(error), []).append(error)
    return {
        status: {
            "model": Problem,
            "description": ", ".join(f"`{error.code}`" for error in found),
            "content": {
                "application/problem+json": {
                    "examples": {error.code: {"value": example_problem(error, status)} for error in found}
                }
            },
        }
        for status, found in sorted(by_status.items())
    }
