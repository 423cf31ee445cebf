"""Instruments that cost a prediction a fraction of a microsecond, and their families, which Prometheus reads.

The library's own instruments take about two microseconds for a histogram's observation: they look through the buckets
one by one and lock twice. These add to plain numbers under one lock, and are put into the library's form when somebody
reads them.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString

Labels: TypeAlias = tuple[str, ...]
EmptyFamily: TypeAlias = Callable[[Sequence[str]], Any]
"""Makes the library's family of one kind: they have no type in common that takes labels."""


class Instrument(Protocol):
    """What a family holds one of for each combination of labels."""

    def write(self, family: Any, labels: Labels) -> None:
        """Put its numbers into the library's form."""
        ...


I = TypeVar("I", bound=Instrument)  # noqa: E741 - an instrument


class PlainCounter:
    """Implements ``Counter``."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = Lock()
        self._value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count.

        Raises:
            ValueError: less than nothing.
        """
        if amount < 0:
            raise ValueError("a counter only grows")
        with self._lock:
            self._value += amount

    def write(self, family: Any, labels: Labels) -> None:
        """Put its numbers into the library's form."""
        family.add_metric(labels, self._value)


class PlainGauge:
    """Implements ``Gauge``."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value = 0.0

    def set(self, value: float) -> None:
        """Say how it stands now."""
        self._value = float(value)

    def write(self, family: Any, labels: Labels) -> None:
        """Put its numbers into the library's form."""
        family.add_metric(labels, self._value)


class PlainHistogram:
    """Implements ``Histogram``."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._lock = Lock()
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take one value in."""
        place = bisect_left(self._bounds, value)  # a bound belongs to the range below it
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def write(self, family: Any, labels: Labels) -> None:
        """Put its numbers into the library's form: each range with all those below it."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(counts), strict=True)), total)


class Family(Generic[I]):
    """One name's instruments, by their labels: what a registry collects."""

    def __init__(self, empty: EmptyFamily, label_names: Labels, make: Callable[[], I]) -> None:
        self.label_names = label_names
        self._empty = empty
        self._make = make
        self._children: dict[Labels, I] = {}

    def child(self, values: Labels) -> I:
        """Return the instrument of these labels; the same one each time."""
        # One step: two threads that ask at once get one instrument.
        return self._children.get(values) or self._children.setdefault(values, self._make())

    def describe(self) -> Iterable[Metric]:
        """Say the name, so that a second family of it is refused."""
        return (self._empty(self.label_names),)

    def collect(self) -> Iterable[Metric]:
        """Return the numbers as they stand."""
        family = self._empty(self.label_names)
        for values, instrument in list(self._children.items()):
            instrument.write(family, values)
        return (family,)
