"""Jobs run again and again, tell how it went, and end when asked to."""

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.domain.errors import StoreUnavailable
from backend.worker import Job, JobRunner

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0


class Work:
    """Counts its runs; fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self.error = error

    async def __call__(self) -> int:
        self.runs += 1
        if self.error is not None:
            raise self.error
        return 1

    async def has_run(self, times: int) -> None:
        with anyio.fail_after(WITHIN_S):
            while self.runs < times:
                await anyio.sleep(0.005)


def job(name: str, work: Callable[[], Awaitable[int]], every_s: float = 0.01) -> Job:
    return Job(name=name, every_s=every_s, work=work)


def failures(metrics: PrometheusMetrics, name: str) -> float | None:
    return metrics.registry.get_sample_value("forecourt_job_failures_total", {"job": name})


def last_success(metrics: PrometheusMetrics, name: str) -> float | None:
    return metrics.registry.get_sample_value("forecourt_job_last_success_timestamp_seconds", {"job": name})


async def test_a_job_that_fails_is_tried_again_and_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    good, away, broken = Work(), Work(StoreUnavailable()), Work(RuntimeError("a mistake"))
    metrics = PrometheusMetrics()
    runner = JobRunner([job("good", good), job("away", away), job("broken", broken)], metrics=metrics)
    runner.start()
    for work in (good, away, broken):
        await work.has_run(3)
    await runner.aclose()
    assert failures(metrics, "good") == 0
    assert (failures(metrics, "away"), failures(metrics, "broken")) == (away.runs, broken.runs)
    assert last_success(metrics, "good")
    assert last_success(metrics, "away") == 0
    # A line for each that fails, not for each time.
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(told) == ["job failed: away", "job failed: broken"]


async def test_each_runs_once_and_what_failed_is_named() -> None:
    good, broken = Work(), Work(RuntimeError("a mistake"))
    runner = JobRunner([job("broken", broken), job("good", good)], metrics=PrometheusMetrics())
    assert await runner.run_once() == ("broken",)
    assert (good.runs, broken.runs) == (1, 1)


async def test_a_run_that_is_under_way_is_finished_and_none_is_begun() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> int:
        assert not begun.is_set()
        begun.set()
        await may_end.wait()
        ended.set()
        return 0

    runner = JobRunner([job("slow", work)], metrics=PrometheusMetrics())
    runner.start()
    with anyio.fail_after(WITHIN_S):
        await begun.wait()
        closing = asyncio.create_task(runner.aclose())
        await anyio.wait_all_tasks_blocked()
        assert not closing.done()
        may_end.set()
        await closing
    assert ended.is_set()


async def test_one_that_was_never_started_ends_at_once() -> None:
    await JobRunner([job("good", Work())], metrics=PrometheusMetrics()).aclose()
