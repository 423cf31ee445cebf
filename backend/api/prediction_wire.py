"""A prediction's request and answer as bytes: what both of its routes have in common, and neither does on its own."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from backend.api.errors import field_error
from backend.api.idempotency import check_key, claim_on
from backend.api.limit_headers import limit_lines
from backend.api.schemas.predictions import ModelPredictIn, PredictIn, write_answer
from backend.domain.admission import StoredAnswer
from backend.domain.errors import BadRequest, FieldError, Invalid
from backend.domain.models import OutputOptions
from backend.domain.predictions import PredictCommand, PredictionAnswer, Question, ReplayedAnswer
from backend.domain.records import record

MAX_DEADLINE_MS = 600_000
_LONGEST_DEADLINE = len(str(MAX_DEADLINE_MS))

B = TypeVar("B", bound=ModelPredictIn)

_BOTH = OutputOptions()
_LABELS_ONLY = OutputOptions(probabilities=False)


@record(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a request's headers ask for beside the answer."""

    reads_cache: bool
    fills_cache: bool
    deadline_s: float | None
    idempotency_key: bytes | None


@record(frozen=True, slots=True, kw_only=True)
class Head:
    """What a request says before its body, freed of its server: the same for many requests of one caller.

    ``model`` is the one in the path, ``None`` where it stands in the body. ``terms`` are ``None`` where a header is
    wrong, which is said once the body has been read.
    """

    method: str
    path: str
    model: str | None
    headers: Mapping[bytes, bytes]
    terms: Terms | None

    @classmethod
    def of(cls, method: str, path: str, model: str | None, headers: Mapping[bytes, bytes]) -> "Head":
        """Read a head; ``headers`` by lower-case name, the first of each."""
        try:
            terms = _terms(headers)
        except Invalid:
            terms = None
        return cls(method=method, path=path, model=model, headers=headers, terms=terms)


@record(frozen=True, slots=True)
class Written:
    """An answer, ready to be sent: ``lines`` are its headers, each with its end."""

    status: int
    lines: str
    body: bytes

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI takes them."""
        return headers_in(self.lines)


def headers_in(lines: str) -> list[tuple[bytes, bytes]]:
    """Return header lines as pairs of name and value."""
    pairs = [line.partition(": ") for line in lines.split("\r\n") if line]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs]


def read_question(body: bytes, model: str | None) -> Question:
    """Return what a body asks; ``model`` is the one in the path, ``None`` where it stands in the body.

    Raises:
        BadRequest: it is not JSON.
        Invalid: it is not of the right form.
    """
    content = _content(body)
    inputs, options = _plain_inputs(content, model), _BOTH
    if inputs is None:
        wanted = _validated(PredictIn if model is None else ModelPredictIn, content)
        inputs = wanted.inputs
        options = _BOTH if wanted.parameters.probabilities else _LABELS_ONLY
    return Question(content["model"] if model is None else model, inputs, options)


def command_of(
    head: Head,
    body: bytes,
    question: Question,
    request_id: str,
    *,
    others_follow: bool = True,
    anticipate: Callable[[PredictionAnswer], object] | None = None,
) -> PredictCommand:
    """Return a request as what it asks, and on which terms.

    Raises:
        Invalid: a header is not of the right form.
    """
    terms = head.terms or _terms(head.headers)
    key = terms.idempotency_key
    return PredictCommand(
        question=question,
        request_id=request_id,
        idempotency=None if key is None else claim_on(head.method, head.path, key, body),
        reads_cache=terms.reads_cache,
        fills_cache=terms.fills_cache,
        deadline_s=terms.deadline_s,
        render=_stored,
        others_follow=others_follow,
        anticipate=anticipate,
    )


def write(result: PredictionAnswer | ReplayedAnswer) -> Written:
    """Return the answer as it goes out, but for what every answer of this API carries."""
    limits = limit_lines(result.standing)
    if isinstance(result, ReplayedAnswer):
        status, body = result.answer.status, result.answer.body
        first = "idempotency-replayed: true\r\nx-usage-units: 0\r\n"
    else:
        event, status, body = result.event, 200, write_answer(result)
        how = "hit" if event.cached_units == event.units else "fwd=miss"
        first = f"x-usage-units: {event.units}\r\ncache-status: forecourt; {how}\r\n"
    return Written(status, f"{first}{limits}content-length: {len(body)}\r\ncontent-type: application/json\r\n", body)


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


def _terms(headers: Mapping[bytes, bytes]) -> Terms:
    """Return what the headers ask for.

    Raises:
        Invalid: one of them is wrong.
    """
    cache_control = headers.get(b"cache-control", b"").lower()
    reads = fills = b"no-store" not in cache_control
    if cache_control:
        # Whoever takes nothing that has aged takes nothing from a cache.
        reads = fills and b"no-cache" not in cache_control and b"max-age=0" not in cache_control
    key = headers.get(b"idempotency-key")
    if key is not None:
        check_key(key)
    return Terms(
        reads_cache=reads,
        fills_cache=fills,
        deadline_s=_deadline_s(headers.get(b"x-deadline-ms")),
        idempotency_key=key,
    )


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
