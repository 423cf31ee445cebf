"""What a runner costs: the time of one row."""

from statistics import median
from time import perf_counter
from typing import Final

from backend.domain.models import OutputOptions
from backend.model_service.manifest import Row
from backend.model_service.runners import Runner

_WARM_UP_RUNS: Final = 3
_MAX_RUNS: Final = 40
_MAX_TIMING_S: Final = 0.03


def measure_one_row_us(*runners: Runner, row: Row) -> list[float]:
    """Return each runner's median time of predicting one row, in microseconds.

    They take turns, so that whatever else the machine does meanwhile slows all of them.
    """
    options = OutputOptions()
    times_s: list[list[float]] = [[] for _ in runners]
    ends_at_s = perf_counter() + _MAX_TIMING_S * len(runners)
    for turn in range(_WARM_UP_RUNS + _MAX_RUNS):
        for runner, own in zip(runners, times_s, strict=True):
            started_s = perf_counter()
            runner.predict([row], options)
            if turn >= _WARM_UP_RUNS:
                own.append(perf_counter() - started_s)
        if turn >= _WARM_UP_RUNS and perf_counter() > ends_at_s:
            break
    return [round(median(own) * 1e6, 1) for own in times_s]
