"""A mapping that cannot grow without bound: values expire, and beyond a total weight the least used gives way."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

NEVER = float("inf")


class BoundedMap(Generic[K, V]):
    """Least recently used first. A weight is whatever ``limit`` counts: entries (1 each) or bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._weight = 0
        self._entries: OrderedDict[K, tuple[V, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """What all entries weigh together; never more than the limit."""
        return self._weight

    def get(self, key: K, now_s: float = 0.0) -> V | None:
        """Return a value that has not expired, and make it the most recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[2] <= now_s:
            self.discard(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, *, weight: int = 1, expires_at_s: float = NEVER) -> None:
        """Store a value. One that alone weighs more than the limit is not kept."""
        self.discard(key)
        if weight > self._limit:
            return
        self._entries[key] = (value, weight, expires_at_s)
        self._weight += weight
        while self._weight > self._limit:
            _, (_, lightened, _) = self._entries.popitem(last=False)
            self._weight -= lightened

    def discard(self, key: K) -> None:
        """Remove a value if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[1]
