"""Predictions are counted by how they ended."""

import asyncio

from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.domain.errors import KeyRevoked, RateLimited
from backend.services.outcomes import OutcomeMeter


def test_what_came_instead_of_an_answer_is_counted_by_its_code() -> None:
    metrics = PrometheusMetrics()
    meter = OutcomeMeter(metrics)
    for error in (RateLimited(), RateLimited(), KeyRevoked(), asyncio.CancelledError(), ZeroDivisionError()):
        meter.failed(error)

    def counted(outcome: str) -> float | None:
        return metrics.registry.get_sample_value("forecourt_predictions_total", {"outcome": outcome})

    outcomes = ("answered", "replayed", "rate-limited", KeyRevoked.code, "caller-left", "internal-error", "conflict")
    assert [counted(outcome) for outcome in outcomes] == [0, 0, 2, 1, 1, 1, None]
