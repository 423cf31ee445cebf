"""A prediction's request and answer as bytes: what both of its routes have in common, and neither does on its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from backend.api.errors import field_error
from backend.api.idempotency import claim_on
from backend.api.limit_headers import RawHeaders, raw_limit_headers
from backend.api.schemas.predictions import ModelPredictIn, PredictIn, write_answer
from backend.domain.admission import StoredAnswer
from backend.domain.errors import BadRequest, FieldError, Invalid
from backend.domain.models import OutputOptions
from backend.domain.predictions import PredictCommand, PredictionAnswer, ReplayedAnswer

MAX_DEADLINE_MS = 600_000
_LONGEST_DEADLINE = len(str(MAX_DEADLINE_MS))

B = TypeVar("B", bound=ModelPredictIn)

_JSON = (b"content-type", b"application/json")
_HIT = (b"cache-status", b"forecourt; hit")
_MISS = (b"cache-status", b"forecourt; fwd=miss")
_BOTH = OutputOptions()
_LABELS_ONLY = OutputOptions(probabilities=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, freed of its server: ``headers`` by lower-case name, the first of each."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    request_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, ready to be sent."""

    status: int
    headers: RawHeaders
    body: bytes


def read_command(sent: Sent, model: str | None) -> PredictCommand:
    """Return what a request asks for; ``model`` is the one in its path, ``None`` where it stands in the body.

    Raises:
        BadRequest: the body is not JSON.
        Invalid: it is not of the right form, or a header is not.
    """
    content = _content(sent.body)
    inputs, options = _plain_inputs(content, model), _BOTH
    if inputs is None:
        wanted = _validated(PredictIn if model is None else ModelPredictIn, content)
        inputs = wanted.inputs
        options = _BOTH if wanted.parameters.probabilities else _LABELS_ONLY
    headers = sent.headers
    cache_control = headers.get(b"cache-control", b"").lower()
    reads = fills = True
    if cache_control:
        fills = b"no-store" not in cache_control
        # Whoever takes nothing that has aged takes nothing from a cache.
        reads = fills and b"no-cache" not in cache_control and b"max-age=0" not in cache_control
    return PredictCommand(
        model=content["model"] if model is None else model,
        inputs=inputs,
        options=options,
        request_id=sent.request_id,
        idempotency=claim_on(sent.method, sent.path, headers.get(b"idempotency-key"), sent.body),
        reads_cache=reads,
        fills_cache=fills,
        deadline_s=_deadline_s(headers.get(b"x-deadline-ms")),
        render=_stored,
    )


def write(result: PredictionAnswer | ReplayedAnswer) -> Written:
    """Return the answer as it goes out, but for what every answer of this API carries."""
    if isinstance(result, ReplayedAnswer):
        body = result.answer.body
        first = [(b"idempotency-replayed", b"true"), (b"x-usage-units", b"0")]
        return Written(result.answer.status, [*first, *raw_limit_headers(result.standing), _length(body), _JSON], body)
    event, body = result.event, write_answer(result)
    headers = [
        (b"x-usage-units", b"%d" % event.units),
        _HIT if event.cached_units == event.units else _MISS,
        *raw_limit_headers(result.standing),
        _length(body),
        _JSON,
    ]
    return Written(200, headers, body)


def parse_body(model: type[B], body: bytes) -> B:
    """Read a body.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is not of the model's form.
    """
    return _validated(model, _content(body))


def _content(body: bytes) -> Any:
    try:
        # NaN and Infinity are read here, although JSON has neither, so that the refusal can point at the feature.
        return from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise BadRequest("The body is not valid JSON.") from error


def _plain_inputs(content: Any, model: str | None) -> list[Any] | None:
    """Return the inputs of a body of which one sees without a validator that its form is right, as nearly all are."""
    if type(content) is dict and len(content) == (2 if model is None else 1):
        inputs = content.get("inputs")
        if type(inputs) is list and (model is not None or type(content.get("model")) is str):
            return inputs
    return None


def _validated(model: type[B], content: Any) -> B:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid(errors=tuple(field_error(problem) for problem in problems[:20])) from error


def _stored(answer: PredictionAnswer) -> StoredAnswer:
    return StoredAnswer(status=200, body=write_answer(answer))


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


def _deadline_s(header: bytes | None) -> float | None:
    if header is None:
        return None
    text = header.decode("latin-1")
    # Zeros in front are counted out before anything is converted: a number of any length costs nothing.
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _LONGEST_DEADLINE or int(digits) > MAX_DEADLINE_MS:
        detail = f"must be a whole number from 1 to {MAX_DEADLINE_MS}"
        raise Invalid(errors=(FieldError("/header/X-Deadline-Ms", detail),))
    return int(digits) / 1000
