"""Metrics that nobody reads: what is measured where nobody watches, as in the command line."""

# ruff: noqa: ARG002  # it forgets what it is told

from backend.services.ports import Counter, Gauge, Histogram


class _Ignored:
    def add(self, amount: float = 1.0) -> None:
        """Forget it."""

    def set(self, value: float) -> None:
        """Forget it."""

    def observe(self, value: float) -> None:
        """Forget it."""


class NullMetrics:
    """Implements ``Metrics``."""

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """Return a counter that forgets."""
        return _Ignored()

    def gauge(self, name: str, text: str, **labels: str) -> Gauge:
        """Return a gauge that forgets."""
        return _Ignored()

    def histogram(self, name: str, text: str, *, buckets: tuple[float, ...], **labels: str) -> Histogram:
        """Return a histogram that forgets."""
        return _Ignored()
