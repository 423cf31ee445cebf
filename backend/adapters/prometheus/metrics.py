"""Instruments on a registry of their own: two applications in one process do not meet."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from backend.adapters.prometheus.instruments import Family, Instrument, PlainCounter, PlainGauge, PlainHistogram
from backend.services.ports import Counter, Gauge, Histogram

I = TypeVar("I", bound=Instrument)  # noqa: E741 - an instrument


class PrometheusMetrics:
    """Implements ``Metrics``.

    Args:
        most_series: label combinations of one metric; what comes after them is counted together, as ``other``.
    """

    def __init__(self, *, most_series: int = 500) -> None:
        self._most_series = most_series
        self.registry = CollectorRegistry()
        self._families: dict[str, tuple[type, Family[Any]]] = {}
        self._series: dict[str, set[tuple[str, ...]]] = {}

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """Return the counter of these labels."""
        return self._child(CounterMetricFamily, PlainCounter, name, text, labels)

    def gauge(self, name: str, text: str, **labels: str) -> Gauge:
        """Return the gauge of these labels."""
        return self._child(GaugeMetricFamily, PlainGauge, name, text, labels)

    def histogram(self, name: str, text: str, *, buckets: tuple[float, ...], **labels: str) -> Histogram:
        """Return the histogram of these labels."""
        return self._child(HistogramMetricFamily, partial(PlainHistogram, buckets), name, text, labels)

    def _child(self, kind: type[Any], make: Callable[[], I], name: str, text: str, labels: Mapping[str, str]) -> I:
        labels = dict(sorted(labels.items()))
        if name not in self._families:
            new = Family(lambda names: kind(name, text, labels=names), tuple(labels), make)
            self.registry.register(new)
            self._families[name] = (kind, new)
            self._series[name] = set()
        known_kind, family = self._families[name]
        if known_kind is not kind:
            raise TypeError(f"{name} is another kind of metric already")
        if family.label_names != tuple(labels):
            raise ValueError(f"{name} has other labels: {', '.join(family.label_names)}")
        series = self._series[name]
        values = tuple(map(str, labels.values()))
        if labels and values not in series and len(series) >= self._most_series:
            values = ("other",) * len(values)
        series.add(values)
        instrument: I = family.child(values)
        return instrument
