"""A model's inputs and answers as JSON Schema (OpenAPI 3.1), with an example that the model accepts."""

from typing import Any, Final

from backend.domain.models import Feature, FeatureType, ModelInfo, Task
from backend.model_service.values import category

_TYPES: Final = {
    FeatureType.FLOAT: "number",
    FeatureType.INTEGER: "integer",
    FeatureType.BOOLEAN: "boolean",
    FeatureType.STRING: "string",
}


def input_schema(info: ModelInfo, *, max_rows: int | None = None) -> dict[str, Any]:
    """Return the schema of a request body: ``inputs``, rows by feature name or in feature order."""
    cells = {feature.name: _cell(feature) for feature in info.inputs}
    named = {
        "title": "Row by feature name",
        "type": "object",
        "properties": cells,
        "required": list(cells),
        "additionalProperties": False,
    }
    positional = {
        "title": "Row in feature order",
        "type": "array",
        "prefixItems": list(cells.values()),
        "items": False,
        "minItems": len(cells),
        "maxItems": len(cells),
    }
    inputs: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": [named, positional]}}
    if max_rows is not None:
        inputs["maxItems"] = max_rows
    example = {feature.name: feature.example for feature in info.inputs}
    return {
        "type": "object",
        "properties": {"inputs": inputs},
        "required": ["inputs"],
        "examples": [{"inputs": [example]}, {"inputs": [list(example.values())]}],
    }


def prediction_schema(info: ModelInfo) -> dict[str, Any]:
    """Return the schema of one row's answer."""
    if info.task is Task.REGRESSION:
        return _object({"value": {"type": "number"}}, required=["value"])
    labels = info.labels or ()
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"type": ["string", "number", "boolean"], "description": f"One of: {', '.join(labels)}."}
    probabilities = _object(dict.fromkeys(labels, probability), required=list(labels))
    return _object({"label": label, "probabilities": probabilities}, required=["label"])


def _object(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _cell(feature: Feature) -> dict[str, Any]:
    kind = _TYPES[feature.type]
    cell: dict[str, Any] = {"type": [kind, "null"] if feature.nullable else kind}
    if feature.limit is not None:
        cell |= {"minimum": -feature.limit, "maximum": feature.limit}
    if feature.categories is not None:
        known = [category(text, feature.type) for text in feature.categories]
        cell["enum"] = [*known, None] if feature.nullable else known
    if feature.example is not None:
        cell["examples"] = [feature.example]
    return cell
