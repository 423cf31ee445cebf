"""What a fitted model holds, and that it starts no threads of its own."""

from collections.abc import Iterator

import numpy as np
from sklearn.base import BaseEstimator


def reachable(root: object) -> Iterator[object]:
    """Everything that a fitted model holds, each thing once; arrays of numbers are not opened."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | None):
            continue
        # Kept, not only its id: an array's items can be made on the way, and an id lives as long as its thing.
        seen[id(thing)] = thing
        yield thing
        waiting.extend(_parts(thing))


def run_single_threaded(model: object) -> None:
    """Let no estimator start threads or processes of its own for a prediction.

    Handing a row to joblib costs more than predicting it, and a forest that adds its trees' votes in the order in which
    threads finish does not give the same last digit twice.
    """
    for thing in reachable(model):
        if isinstance(thing, BaseEstimator) and getattr(thing, "n_jobs", None) is not None:
            thing.n_jobs = 1


def _parts(thing: object) -> Iterator[object]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set):
        yield from thing
    elif isinstance(thing, np.ndarray):
        if thing.dtype == object:
            yield from thing.flat
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        yield from vars(thing).values()
