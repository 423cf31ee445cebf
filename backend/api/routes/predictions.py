"""Predictions over HTTP. The body is read once, straight from its bytes; the answer leaves as bytes."""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError
from pydantic_core import from_json

from backend.api.deps import PredictCallerDep, PredictionServiceDep
from backend.api.errors import field_error
from backend.api.idempotency import claim_of
from backend.api.limit_headers import limit_headers
from backend.api.refusals import refusals
from backend.api.schemas.predictions import ModelPredictIn, PredictIn, PredictOut, write_answer
from backend.domain import errors
from backend.domain.admission import StoredAnswer
from backend.domain.callers import PredictCaller
from backend.domain.errors import BadRequest, FieldError, Invalid
from backend.domain.models import OutputOptions
from backend.domain.predictions import PredictCommand, PredictionAnswer, ReplayedAnswer
from backend.services.predictions import PredictionService

router = APIRouter(tags=["predictions"])

B = TypeVar("B", bound=ModelPredictIn)
_JSON = "application/json"
_MAX_DEADLINE_MS = 600_000
_REFUSALS = refusals(
    errors.BadRequest,
    errors.ModelNotAllowed,
    errors.ModelNotFound,
    errors.IdempotencyInProgress,
    errors.SchemaMismatch,
    errors.IdempotencyKeyReused,
    errors.RateLimited,
    errors.QuotaExceeded,
    errors.ConcurrencyExceeded,
    errors.Overloaded,
    errors.EnforcementUnavailable,
    errors.MeteringUnavailable,
    errors.ModelUnavailable,
    errors.DeadlineExceeded,
)
_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "maxLength": 255, "minLength": 1},
        "description": "The same key and body within 24 hours: the stored answer again, nothing run, nothing charged.",
    },
    {
        "name": "X-Deadline-Ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MAX_DEADLINE_MS},
        "description": "Bound on the wait for the answer.",
    },
    {
        "name": "Cache-Control",
        "in": "header",
        "schema": {"type": "string"},
        "description": "`no-cache` computes anew; `no-store` neither reads nor stores.",
    },
]


def body_extra(model: type[ModelPredictIn]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that FastAPI does not parse."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {"required": True, "content": {_JSON: {"schema": reference}}},
        "parameters": _PARAMETERS,
    }


async def read_body(request: Request) -> bytes:
    """Return the body's bytes."""
    return await request.body()


BodyDep = Annotated[bytes, Depends(read_body)]


@router.post(
    "/predict",
    summary="Predict",
    response_model=PredictOut,
    responses=_REFUSALS,
    openapi_extra=body_extra(PredictIn),
)
async def predict(request: Request, caller: PredictCallerDep, service: PredictionServiceDep, body: BodyDep) -> Response:
    """Answer rows with a model. One row is one unit; only a 200 is charged."""
    wanted = parse_body(PredictIn, body)
    return await _answer(request, caller, service, wanted.model, wanted, body)


@router.post(
    "/models/{model}/predict",
    summary="Predict with one model",
    response_model=PredictOut,
    responses=_REFUSALS,
    openapi_extra=body_extra(ModelPredictIn),
)
async def predict_with_model(
    model: str, request: Request, caller: PredictCallerDep, service: PredictionServiceDep, body: BodyDep
) -> Response:
    """Answer rows with the model in the path: `name`, `name@version` or `name@alias`."""
    return await _answer(request, caller, service, model, parse_body(ModelPredictIn, body), body)


def parse_body(model: type[B], body: bytes) -> B:
    """Read a body.

    NaN and Infinity are read here, although JSON has neither, so that the refusal can point at the feature.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is not of the model's form.
    """
    try:
        content = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise BadRequest("The body is not valid JSON.") from error
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid(errors=tuple(field_error(problem) for problem in problems[:20])) from error


async def _answer(
    request: Request,
    caller: PredictCaller,
    service: PredictionService,
    model: str,
    wanted: ModelPredictIn,
    body: bytes,
) -> Response:
    cache_control = request.headers.get("cache-control", "").lower()
    command = PredictCommand(
        model=model,
        inputs=wanted.inputs,
        options=OutputOptions(probabilities=wanted.parameters.probabilities),
        request_id=request.scope["request_id"],
        idempotency=claim_of(request, body),
        reads_cache="no-cache" not in cache_control and "no-store" not in cache_control,
        fills_cache="no-store" not in cache_control,
        deadline_s=_deadline_s(request),
        render=_stored,
    )
    result = await service.predict(caller, command)
    if isinstance(result, ReplayedAnswer):
        headers = {"Idempotency-Replayed": "true", "X-Usage-Units": "0", **limit_headers(result.standing)}
        return Response(result.answer.body, result.answer.status, headers, media_type=_JSON)
    event = result.event
    headers = {
        "X-Usage-Units": str(event.units),
        "Cache-Status": "forecourt; hit" if event.cached_units == event.units else "forecourt; fwd=miss",
        **limit_headers(result.standing),
    }
    return Response(write_answer(result), 200, headers, media_type=_JSON)


def _stored(answer: PredictionAnswer) -> StoredAnswer:
    return StoredAnswer(status=200, body=write_answer(answer))


def _deadline_s(request: Request) -> float | None:
    text = request.headers.get("x-deadline-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= _MAX_DEADLINE_MS:
        raise _bad_header("X-Deadline-Ms", f"must be a whole number from 1 to {_MAX_DEADLINE_MS}")
    return int(text) / 1000


def _bad_header(name: str, detail: str) -> Invalid:
    return Invalid(errors=(FieldError(f"/header/{name}", detail),))
