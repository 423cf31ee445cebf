"""One prediction request and its answer, freed of every protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backend.domain.admission import IdempotencyClaim, Standing, StoredAnswer
from backend.domain.models import ModelInfo, OutputOptions
from backend.domain.records import record
from backend.domain.usage import UsageEvent


@record(frozen=True, slots=True, kw_only=True)
class PredictCommand:
    """One request, freed of its protocol. ``render`` turns an answer into what a replay has to repeat."""

    model: str
    inputs: Sequence[object]
    request_id: str
    render: "Callable[[PredictionAnswer], StoredAnswer]"
    options: OutputOptions = field(default_factory=OutputOptions)
    idempotency: IdempotencyClaim | None = None
    reads_cache: bool = True
    fills_cache: bool = True
    deadline_s: float | None = None


@record(frozen=True, slots=True, kw_only=True)
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
