"""How a prediction ends: what admission's verdict means to its caller, and how often which end came."""

import asyncio

from backend.domain.admission import AdmissionDecision, Lease, Verdict
from backend.domain.errors import (
    ForecourtError,
    IdempotencyInProgress,
    IdempotencyKeyReused,
    QuotaExceeded,
    RateLimited,
)
from backend.domain.predictions import PredictionAnswer, ReplayedAnswer
from backend.services.ports import Counter, Metrics

ANSWERED, REPLAYED, LEFT, FAILED = "answered", "replayed", "caller-left", "internal-error"


class OutcomeMeter:
    """Counts predictions by how they ended: answered, replayed, or the code of the refusal. Under a microsecond each.

    Codes are the constants of our own errors, so there are few; whoever sent no valid credential has no prediction.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counters = {outcome: self._counter(outcome) for outcome in (ANSWERED, REPLAYED, LEFT, FAILED)}
        self._answered = self._counters[ANSWERED]

    def answered(self, answer: PredictionAnswer | ReplayedAnswer) -> None:
        """Count an answer."""
        if type(answer) is PredictionAnswer:
            self._answered.add()
        else:
            self._counters[REPLAYED].add()

    def failed(self, error: BaseException) -> None:
        """Count what came instead of one."""
        if isinstance(error, ForecourtError):
            outcome = error.code
        else:
            outcome = LEFT if isinstance(error, asyncio.CancelledError) else FAILED
        if outcome not in self._counters:
            self._counters[outcome] = self._counter(outcome)
        self._counters[outcome].add()

    def _counter(self, outcome: str) -> Counter:
        return self._metrics.counter("forecourt_predictions_total", "Predictions by how they ended.", outcome=outcome)


def held(decision: AdmissionDecision) -> Lease:
    """Return the lease that an admitted request holds."""
    if decision.lease is None:
        raise RuntimeError("an admitted request holds a lease")
    return decision.lease


def refuse(decision: AdmissionDecision) -> None:
    """Raise what a verdict means, unless it lets the request through.

    Raises:
        RateLimited, QuotaExceeded, IdempotencyKeyReused, IdempotencyInProgress: as it says.
    """
    if decision.verdict is Verdict.ADMITTED:
        return
    match decision.verdict:
        case Verdict.RATE_LIMITED:
            raise RateLimited(retry_after_s=decision.retry_after_s, standing=decision.standing)
        case Verdict.QUOTA_EXCEEDED:
            raise QuotaExceeded(retry_after_s=decision.retry_after_s, standing=decision.standing)
        case Verdict.IDEMPOTENCY_REUSED:
            raise IdempotencyKeyReused
        case Verdict.IDEMPOTENCY_IN_PROGRESS:
            raise IdempotencyInProgress(retry_after_s=1)
        case _:
            return
