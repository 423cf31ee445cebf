"""Predictions on the wire. Answers are put together as bytes: each row arrives as finished JSON."""

from typing import Any

import orjson
from pydantic import Field

from backend.api.schemas.common import In, Out
from backend.domain.predictions import PredictionAnswer


class PredictParameters(In):
    """What the answer should hold."""

    probabilities: bool = Field(True, description="Whether a classifier's rows carry the probability of each label.")


class ModelPredictIn(In):
    """Rows for the model in the path."""

    inputs: list[Any] = Field(
        description="Rows: lists in the order of the model's inputs, or objects by input name.",
        examples=[[[5.1, 3.5, 1.4, 0.2]]],
    )
    parameters: PredictParameters = Field(default_factory=lambda: PredictParameters())  # noqa: PLW0108


class PredictIn(ModelPredictIn):
    """Rows for a model."""

    model: str = Field(
        description="A model, `name@version` or `name@alias`.", examples=["iris", "iris@1", "iris@stable"]
    )


class UsageOut(Out):
    """What the request counts as."""

    units: int = Field(description="Rows answered.")
    cached_units: int = Field(description="Rows of them that came from the cache.")
    billable_units: int = Field(description="Rows that are billed.")


class PredictionOut(Out):
    """One row's answer: `label` and `probabilities` of a classifier, or `value` of a regressor."""

    label: str | int | bool | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None


class PredictOut(Out):
    """The answer; documentation only, since it is written as bytes."""

    id: str = Field(description="The usage event's id.", examples=["evt_01JD0000000000000000000000"])
    model: str
    version: str
    predictions: list[PredictionOut]
    usage: UsageOut


def write_answer(answer: PredictionAnswer) -> bytes:
    """Return the answer's body."""
    event = answer.event
    head = orjson.dumps({"id": event.id, "model": event.model, "version": event.model_version})
    usage = orjson.dumps(
        {"units": event.units, "cached_units": event.cached_units, "billable_units": event.billable_units}
    )
    return b"".join((head[:-1], b',"predictions":[', b",".join(answer.predictions), b'],"usage":', usage, b"}"))
