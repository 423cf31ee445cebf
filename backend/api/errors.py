"""The status table, and how a refusal looks on the wire: RFC 9457 ``application/problem+json``."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from backend.api.allowed_methods import allowed_methods
from backend.api.deps.callers import refuse_stranger
from backend.api.limit_headers import limit_headers
from backend.domain import errors
from backend.domain.errors import FieldError, ForecourtError, OAuthError, TooMany

log = logging.getLogger(__name__)

STATUS: dict[type[ForecourtError], int] = {
    errors.BadRequest: 400,
    errors.KeyInUrl: 400,
    errors.OAuthError: 400,
    errors.Unauthenticated: 401,
    errors.KeyExpired: 401,
    errors.KeyRevoked: 401,
    errors.Forbidden: 403,
    errors.InsufficientScope: 403,
    errors.ScopeExceedsGrantor: 403,
    errors.RoleNotGrantable: 403,
    errors.ReauthenticationRequired: 403,
    errors.ModelNotAllowed: 403,
    errors.AddressNotAllowed: 403,
    errors.TenantSuspended: 403,
    errors.NotFound: 404,
    errors.ModelNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.Conflict: 409,
    errors.AlreadyExists: 409,
    errors.KeyLimitReached: 409,
    errors.LastOwner: 409,
    errors.VersionInUse: 409,
    errors.AlreadyMember: 409,
    errors.KeyNotChangeable: 409,
    errors.KeyNotRotatable: 409,
    errors.RotationInProgress: 409,
    errors.WebhookLimitReached: 409,
    errors.WebhookDisabled: 409,
    errors.IdempotencyInProgress: 409,
    errors.WatermarkBehind: 409,
    errors.ReconciliationMismatch: 409,
    errors.PeriodOpen: 409,
    errors.Gone: 410,
    errors.InvitationExpired: 410,
    errors.LinkExpired: 410,
    errors.UsageExpired: 410,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedEncoding: 415,
    errors.RangeNotSatisfiable: 416,
    errors.Invalid: 422,
    errors.SchemaMismatch: 422,
    errors.IdempotencyKeyReused: 422,
    errors.WeakPassword: 422,
    errors.UrlNotAllowed: 422,
    errors.TooMany: 429,
    errors.RateLimited: 429,
    errors.QuotaExceeded: 429,
    errors.ConcurrencyExceeded: 429,
    errors.ForecourtError: 500,
    errors.Unavailable: 503,
    errors.Overloaded: 503,
    errors.EnforcementUnavailable: 503,
    errors.MeteringUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.ModelUnavailable: 503,
    errors.MailUnavailable: 503,
    errors.CallFailed: 503,
    errors.BillerRefused: 503,
    errors.DeadlineExceeded: 504,
}
_OAUTH_STATUS = {"invalid_client": 401, "slow_down": 429}
_PROBLEM = "application/problem+json"
# Where pydantic's words would name a class of ours.
_OBJECT_TYPES = frozenset({"model_type", "model_attributes_type"})
_BY_STATUS: dict[int, type[ForecourtError]] = {
    400: errors.BadRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
}


def status_of(error: type[ForecourtError]) -> int:
    """Return the HTTP status of an error; a subclass that is not in the table takes its parent's."""
    return next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)


def problem_response(error: ForecourtError, request_id: str) -> Response:
    """Return an error as it goes out."""
    status = status_of(type(error))
    body: dict[str, Any] = {
        "type": f"urn:forecourt:problem:{error.code}",
        "title": error.title,
        "status": status,
        "detail": error.detail,
        "instance": f"urn:forecourt:request:{request_id}",
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        body["errors"] = [{"pointer": each.pointer, "detail": each.detail} for each in error.errors]
    headers = {"Cache-Control": "no-store"}
    retry_after_s = error.retry_after_s
    if retry_after_s is None and status in {429, 503}:
        retry_after_s = 1
    if retry_after_s is not None:
        body["retry_after"] = retry_after_s
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, TooMany) and error.standing is not None:
        headers |= limit_headers(error.standing)
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Bearer realm="forecourt"'
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type=_PROBLEM)


def _request_id(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


async def _on_refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, OAuthError):
        return _oauth_response(error)
    if not isinstance(error, ForecourtError):
        raise error
    return problem_response(error, _request_id(request))


def _oauth_response(error: OAuthError) -> Response:
    headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    status = _OAUTH_STATUS.get(error.oauth_code, 400)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Basic realm="forecourt"'
    body = {"error": error.oauth_code, "error_description": error.detail}
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")


async def _on_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return await _unreadable(request, errors.BadRequest("The body is not valid JSON."))
    if request.url.path in {"/v1/auth/token", "/v1/auth/revoke"}:
        return _oauth_response(OAuthError("invalid_request", "A parameter is missing or malformed."))
    refusal = errors.Invalid(errors=tuple(field_error(problem) for problem in problems[:20]))
    return problem_response(refusal, _request_id(request))


async def _unreadable(request: Request, refusal: ForecourtError) -> Response:
    """FastAPI reads a body before it asks who calls. What is wrong with it is no stranger's business."""
    try:
        await refuse_stranger(request)
    except ForecourtError as stranger:
        refusal = stranger
    return problem_response(refusal, _request_id(request))


def field_error(problem: Mapping[str, Any]) -> FieldError:
    """Return one of pydantic's findings as ours: a pointer and what is wrong, never the value."""
    where = [str(part).replace("~", "~0").replace("/", "~1") for part in problem["loc"]]
    if where and where[0] == "body":
        where = where[1:]
    # A name that the schema does not know is the caller's own text: what it stands in is pointed at.
    if problem["type"] == "extra_forbidden":
        return FieldError(_pointer(where[:-1]), "holds an unknown field")
    if where[-1:] == ["[key]"]:
        return FieldError(_pointer(where[:-2]), "holds a name that is not valid")
    return FieldError(_pointer(where), _what_is_wrong(problem))


def _pointer(where: list[str]) -> str:
    return "/" + "/".join(where) if where else ""


def _what_is_wrong(problem: Mapping[str, Any]) -> str:
    if problem["type"] in _OBJECT_TYPES:
        return "must be an object"
    if problem["type"] == "value_error":
        # What a validator of ours raised, which says nothing of the value.
        return str(problem["ctx"]["error"])
    return str(problem["msg"])


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if isinstance(error.__cause__, ForecourtError):
        # Raised while FastAPI read the body, which wraps whatever it meets.
        return problem_response(error.__cause__, _request_id(request))
    if error.status_code == 400:  # noqa: PLR2004
        return await _unreadable(request, errors.BadRequest("The body cannot be read."))
    refusal = _BY_STATUS.get(error.status_code, errors.ForecourtError)()
    response = problem_response(refusal, _request_id(request))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    if isinstance(refusal, errors.MethodNotAllowed):
        response.headers["Allow"] = ", ".join(allowed_methods(request.app.routes, request.scope["path"]))
    return response


def install_error_handlers(app: FastAPI) -> None:
    """Make every refusal of this application a problem document."""
    app.add_exception_handler(ForecourtError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
