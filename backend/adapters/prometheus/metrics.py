"""Instruments on a registry of their own: two applications in one process do not meet."""

from collections.abc import Mapping
from typing import Any, TypeVar

import prometheus_client as prometheus
from prometheus_client.metrics import MetricWrapperBase

from backend.services.ports import Counter, Gauge, Histogram

M = TypeVar("M", bound=MetricWrapperBase)


class _Counter:
    def __init__(self, child: prometheus.Counter) -> None:
        self._child = child

    def add(self, amount: float = 1.0) -> None:
        self._child.inc(amount)


class PrometheusMetrics:
    """Implements ``Metrics``. A gauge and a histogram of the library have the port's form already.

    Args:
        most_series: label combinations of one metric; what comes after them is counted together, as ``other``.
    """

    def __init__(self, *, most_series: int = 500) -> None:
        self._most_series = most_series
        self.registry = prometheus.CollectorRegistry()
        self._families: dict[str, MetricWrapperBase] = {}
        self._series: dict[str, set[tuple[str, ...]]] = {}

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """Return the counter of these labels."""
        return _Counter(self._child(prometheus.Counter, name, text, labels))

    def gauge(self, name: str, text: str, **labels: str) -> Gauge:
        """Return the gauge of these labels."""
        return self._child(prometheus.Gauge, name, text, labels)

    def histogram(self, name: str, text: str, *, buckets: tuple[float, ...], **labels: str) -> Histogram:
        """Return the histogram of these labels."""
        return self._child(prometheus.Histogram, name, text, labels, buckets=buckets)

    def _child(self, kind: type[M], name: str, text: str, labels: Mapping[str, str], **options: Any) -> M:
        labels = dict(sorted(labels.items()))
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = kind(name, text, tuple(labels), registry=self.registry, **options)
            self._series[name] = set()
        if not isinstance(family, kind):
            raise TypeError(f"{name} is another kind of metric already")
        if not labels:
            return family
        series = self._series[name]
        values = tuple(labels.values())
        if values not in series and len(series) >= self._most_series:
            values = ("other",) * len(values)
        series.add(values)
        # By name: a metric that is asked for with other labels than at first says so.
        return family.labels(**dict(zip(labels, values, strict=True)))
