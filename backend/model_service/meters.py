"""What is counted of each version: made once when it is loaded, so that a prediction only adds to it.

===========================================  ====================================================================
forecourt_model_seconds                      from the rows to their answers, as a caller waits: queue and model
forecourt_model_rows_total                   rows answered
forecourt_model_cached_rows_total            rows that the response cache answered instead
forecourt_model_queue_wait_seconds           from the queue's end to its front
forecourt_model_batch_rows                   rows that were computed together
forecourt_model_errors_total                 requests on which the model failed
forecourt_model_shed_total                   requests that found the queue full, closed, too slow, or the model stuck
forecourt_model_single_flight_rows_total     rows that waited for the same row of the same share
forecourt_model_runner_in_use                1 for the runner that serves a version
forecourt_model_shadow_rows_total            rows that a shadow target got as well, by what came of them
forecourt_model_shadow_difference            how far a shadow's numbers were from those that were answered
===========================================  ====================================================================
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backend.services.ports.metrics import Counter, Gauge, Histogram, Metrics

_SECONDS: Final = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
    30.0,
)  # fmt: skip
_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1_024.0)
_DIFFERENCES: Final = (0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0, 100.0)


class ShadowOutcome(StrEnum):
    """What came of a row that a shadow target got as well."""

    AGREED = "agreed"
    DIFFERED = "differed"
    FAILED = "failed"
    UNFIT = "unfit"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMeter:
    """The instruments of one version."""

    seconds: Histogram
    rows: Counter
    cached_rows: Counter
    queue_wait: Histogram
    batch_rows: Histogram
    errors: Counter
    shed: Counter
    single_flight: Counter
    runner: Gauge

    @classmethod
    def of(cls, metrics: Metrics, *, model: str, version: str, runner: str) -> "ModelMeter":
        """Make them."""
        of = {"model": model, "version": version}
        return cls(
            seconds=metrics.histogram(
                "forecourt_model_seconds", "From rows to answers, queue and model.", buckets=_SECONDS, **of
            ),
            rows=metrics.counter("forecourt_model_rows_total", "Rows answered by the model.", **of),
            cached_rows=metrics.counter(
                "forecourt_model_cached_rows_total", "Rows answered by the response cache.", **of
            ),
            queue_wait=metrics.histogram(
                "forecourt_model_queue_wait_seconds", "Time in the queue.", buckets=_SECONDS, **of
            ),
            batch_rows=metrics.histogram("forecourt_model_batch_rows", "Rows computed together.", buckets=_ROWS, **of),
            errors=metrics.counter("forecourt_model_errors_total", "Requests on which the model failed.", **of),
            shed=metrics.counter("forecourt_model_shed_total", "Requests refused before the model.", **of),
            single_flight=metrics.counter(
                "forecourt_model_single_flight_rows_total", "Rows that waited for the same row.", **of
            ),
            runner=metrics.gauge("forecourt_model_runner_in_use", "The runner that serves.", runner=runner, **of),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowMeter:
    """The instruments of one version beside its shadow target."""

    rows: dict[ShadowOutcome, Counter]
    difference: Histogram

    @classmethod
    def of(cls, metrics: Metrics, *, model: str, version: str, shadow: str) -> "ShadowMeter":
        """Make them."""
        of = {"model": model, "version": version, "shadow": shadow}
        return cls(
            rows={
                outcome: metrics.counter(
                    "forecourt_model_shadow_rows_total", "Rows that a shadow got as well.", outcome=outcome, **of
                )
                for outcome in ShadowOutcome
            },
            difference=metrics.histogram(
                "forecourt_model_shadow_difference",
                "A shadow's numbers from those answered.",
                buckets=_DIFFERENCES,
                **of,
            ),
        )


class _Silent:
    def add(self, amount: float = 1.0) -> None:
        """Forget it."""

    def set(self, value: float) -> None:
        """Forget it."""

    def observe(self, value: float) -> None:
        """Forget it."""


class SilentMetrics:
    """Metrics for where nobody watches: tools that open the model service without an application around it."""

    # ruff: noqa: ARG002  # it forgets what it is told

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """Return a counter that forgets."""
        return _Silent()

    def gauge(self, name: str, text: str, **labels: str) -> Gauge:
        """Return a gauge that forgets."""
        return _Silent()

    def histogram(self, name: str, text: str, *, buckets: tuple[float, ...], **labels: str) -> Histogram:
        """Return a histogram that forgets."""
        return _Silent()
