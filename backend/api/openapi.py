"""The OpenAPI document: what FastAPI derives, the two ways to authenticate, and each model with its own types."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from backend.api.router import PUBLIC
from backend.api.schemas.predictions import ModelPredictIn, PredictIn
from backend.domain.models import ModelInfo
from backend.domain.scopes import TENANT_SCOPES

DESCRIPTION = (
    "Predictions under your own API key, metered exactly once. "
    "Authorize with an API key, or log in with address and password."
)


def build_openapi(
    app: FastAPI,
    models: tuple[ModelInfo, ...],
    input_schema: Callable[[ModelInfo], dict[str, Any]],
    prediction_schema: Callable[[ModelInfo], dict[str, Any]],
) -> dict[str, Any]:
    """Return the document for the models that are loaded now."""
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, openapi_version="3.1.0"
    )
    components = document.setdefault("components", {})
    _add_body_schemas(components["schemas"])
    components["securitySchemes"] = _security_schemes()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _finish(operation, path)
    generic = document["paths"]["/v1/models/{model}/predict"]["post"]
    for info in models:
        path = f"/v1/models/{info.name}/predict"
        document["paths"][path] = {"post": _typed(generic, info, input_schema(info), prediction_schema(info))}
    return document


def _add_body_schemas(schemas: dict[str, Any]) -> None:
    # FastAPI does not parse these bodies, so it does not know their schemas.
    for model in (PredictIn, ModelPredictIn):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)


def _security_schemes() -> dict[str, Any]:
    return {
        "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key, `fc_…`."},
        "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an access token."},
        "Login": {
            "type": "oauth2",
            "flows": {
                "password": {
                    "tokenUrl": "/v1/auth/token",
                    "refreshUrl": "/v1/auth/token",
                    "scopes": {scope.value: "" for scope in sorted(TENANT_SCOPES)},
                }
            },
        },
    }


def _finish(operation: dict[str, Any], path: str) -> None:
    if path not in PUBLIC:
        operation["security"] = [{"ApiKey": []}, {"Bearer": []}, {"Login": []}]
    for response in operation["responses"].values():
        content = response.get("content", {})
        problem = content.get("application/problem+json")
        if problem is not None and len(content) > 1:
            # FastAPI puts a declared model under the route's own media type; a refusal is always a problem document.
            problem["schema"] = next(each["schema"] for each in content.values() if "schema" in each)
            response["content"] = {"application/problem+json": problem}


def _typed(
    generic: dict[str, Any], info: ModelInfo, inputs: dict[str, Any], prediction: dict[str, Any]
) -> dict[str, Any]:
    ok = generic["responses"]["200"]
    body = {
        **inputs,
        "properties": {**inputs["properties"], "parameters": {"$ref": "#/components/schemas/PredictParameters"}},
        "additionalProperties": False,
    }
    answer = {
        "type": "object",
        "required": ["id", "model", "version", "predictions", "usage"],
        "properties": {
            "id": {"type": "string"},
            "model": {"const": info.name},
            "version": {"type": "string"},
            "predictions": {"type": "array", "items": prediction},
            "usage": {"$ref": "#/components/schemas/UsageOut"},
        },
    }
    return {
        **generic,
        "summary": f"Predict with {info.name}",
        "description": f"{info.task.capitalize()} with version {info.version} of `{info.name}`.",
        "operationId": f"predict_with_{info.name}",
        "parameters": [each for each in generic["parameters"] if each["in"] != "path"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            **generic["responses"],
            "200": {**ok, "content": {"application/json": {"schema": answer}}},
        },
    }
