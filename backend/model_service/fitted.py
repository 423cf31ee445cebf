"""What a fitted model holds, and how many threads it may start."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types


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


def one_native_thread() -> AbstractContextManager[object]:
    """Keep compiled loops on the calling thread, from the call on; used as a context, until its end.

    Hist-boosting (OpenMP) splits even one row over all cores, and matrix products (BLAS) do: no sooner done, and where
    another process wants a core they spin in wait for each other. A network of two layers of 256 took 139 µs for a row
    with one BLAS thread and 1,097 µs with two, on two busy cores. OpenMP keeps its number per thread; BLAS has one for
    the process, which is what a server of many callers wants.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


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
