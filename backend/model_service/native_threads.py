"""How many threads the compiled libraries under the models may use."""

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types


def one_native_thread() -> AbstractContextManager[object]:
    """Keep compiled loops on the calling thread, from the call on; used as a context, until its end.

    Hist-boosting (OpenMP) splits even one row over all cores, and matrix products (BLAS) do: no sooner done, and where
    another process wants a core they spin in wait for each other. Two processes on two cores, each predicting single
    rows with a hist-boosting model of 100 rounds, answered 1,200 rows a second between them this way, and without it
    between 13 and 31. OpenMP keeps its number per thread; BLAS has one for the process, which is what a server of many
    callers wants.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits
