"""How many threads the compiled libraries under the models may use."""

from contextlib import AbstractContextManager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types


def one_native_thread() -> AbstractContextManager[object]:
    """Keep compiled loops on the calling thread, from the call on; used as a context, until its end.

    Hist-boosting (OpenMP) splits even one row over all cores, and matrix products (BLAS) do: no sooner done, and where
    another process wants a core they spin in wait for each other. A network of two layers of 256 took 139 µs for a row
    with one BLAS thread and 1,097 µs with two, on two busy cores. OpenMP keeps its number per thread; BLAS has one for
    the process, which is what a server of many callers wants.
    """
    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits
