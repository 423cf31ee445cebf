"""One prediction request and its answer, freed of every protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.admission import IdempotencyClaim, Standing, StoredAnswer
from backend.domain.models import ModelInfo, OutputOptions
from backend.domain.records import record
from backend.domain.usage import UsageEvent


@record(slots=True)
class Question:
    """What is asked of which model.

    Of a question that is known to be asked again, the same object stands for each time; ``prepared`` is then what was
    made of it before, for whoever made it to look at.
    """

    model: str
    inputs: Sequence[object]
    options: OutputOptions
    is_repeated: bool = False
    prepared: Any = None


@record(frozen=True, slots=True, kw_only=True)
class PredictCommand:
    """One request, freed of its protocol.

    ``render`` turns an answer into what a replay has to repeat. ``others_follow`` says whether more may arrive in the
    same turn of the event loop. ``anticipate`` is shown the answer before it is one, while its usage becomes durable or
    does not, for whoever wants to use that time; or it is not called.
    """

    question: Question
    request_id: str
    render: "Callable[[PredictionAnswer], StoredAnswer]"
    idempotency: IdempotencyClaim | None = None
    reads_cache: bool = True
    fills_cache: bool = True
    deadline_s: float | None = None
    others_follow: bool = True
    anticipate: "Callable[[PredictionAnswer], object] | None" = None


@record(frozen=True, slots=True)
class PredictionAnswer:
    """One answered request; each of ``predictions`` is a JSON object, in the order of the rows."""

    event: UsageEvent
    model: ModelInfo
    predictions: Sequence[bytes]
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedAnswer:
    """The stored answer of an earlier request with the same Idempotency-Key."""

    answer: StoredAnswer
    standing: Standing
