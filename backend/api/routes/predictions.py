"""Predictions over HTTP, as FastAPI knows them: documented, overridable, and for whatever is unusual about a request.

The usual request takes :mod:`backend.api.direct_predictions`, past FastAPI. Both only translate, and both by
:mod:`backend.api.prediction_wire`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from backend.api.deps import PredictCallerDep, PredictionServiceDep
from backend.api.prediction_wire import MAX_DEADLINE_MS, Head, command_of, read_question, write
from backend.api.refusals import refusals
from backend.api.schemas.predictions import ModelPredictIn, PredictIn, PredictOut
from backend.domain import errors
from backend.domain.callers import PredictCaller
from backend.services.predictions import PredictionService

router = APIRouter(tags=["predictions"])

_JSON = "application/json"
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
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
        "description": "Bound on the wait for the answer.",
    },
    {
        "name": "Cache-Control",
        "in": "header",
        "schema": {"type": "string"},
        "description": "`no-cache` or `max-age=0` computes anew; `no-store` neither reads nor stores.",
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
    return await _answer(request, caller, service, None, body)


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
    return await _answer(request, caller, service, model, body)


async def _answer(
    request: Request, caller: PredictCaller, service: PredictionService, model: str | None, body: bytes
) -> Response:
    headers = dict(reversed(request.scope["headers"]))
    head = Head.of(request.method, request.scope["path"], model, headers)
    command = command_of(head, body, read_question(body, head.model), request.scope["request_id"])
    written = write(await service.predict(caller, command))
    response = Response(written.body, written.status)
    response.raw_headers = written.headers
    return response
