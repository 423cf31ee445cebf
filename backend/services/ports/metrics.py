"""Numbers about the service itself, for whoever watches it."""

from typing import Protocol


class Counter(Protocol):
    """Only ever grows."""

    def add(self, amount: float = 1.0) -> None:
        """Count; costs under a microsecond."""
        ...


class Gauge(Protocol):
    """Goes up and down."""

    def set(self, value: float) -> None:
        """Say how it stands now."""
        ...


class Histogram(Protocol):
    """How often values fell into which range."""

    def observe(self, value: float) -> None:
        """Take one value in; costs about a microsecond."""
        ...


class Metrics(Protocol):
    """Makes instruments. Make them once, when something is opened, and keep them: making one takes a look-up.

    Names are snake_case, begin with ``forecourt_`` and end in the unit (``_seconds``, ``_bytes``, ``_rows``), or in
    ``_total`` where they count. One name has one text and one set of label names; asked for again with the same
    labels, it is the same instrument. A label's values are few and known (a model, a verdict, an outcome): never a
    tenant, a key or anything else that a caller may choose. Past a cap, further values are counted as ``other``.
    """

    def counter(self, name: str, text: str, **labels: str) -> Counter:
        """Return the counter of these labels."""
        ...

    def gauge(self, name: str, text: str, **labels: str) -> Gauge:
        """Return the gauge of these labels."""
        ...

    def histogram(self, name: str, text: str, *, buckets: tuple[float, ...], **labels: str) -> Histogram:
        """Return the histogram of these labels; ``buckets`` are upper bounds, growing."""
        ...
