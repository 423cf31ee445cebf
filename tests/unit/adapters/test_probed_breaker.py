"""A breaker opens once, asks by itself, and closes when the part works."""

import asyncio

import anyio
import pytest

from backend.adapters.breaker import BreakerState
from backend.adapters.probed_breaker import ProbedBreaker
from backend.adapters.prometheus.metrics import PrometheusMetrics

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0


class Part:
    """Something that answers, or does not."""

    def __init__(self) -> None:
        self.is_down = True
        self.questions = 0
        self.asked = asyncio.Event()

    async def probe(self) -> None:
        self.questions += 1
        self.asked.set()
        if self.is_down:
            raise OSError


def changes(metrics: PrometheusMetrics, to: str) -> float | None:
    return metrics.registry.get_sample_value("forecourt_breaker_transitions_total", {"resource": "thing", "to": to})


async def reaches(breaker: ProbedBreaker, state: BreakerState) -> None:
    with anyio.fail_after(WITHIN_S):
        while breaker.state is not state:
            await anyio.sleep(0.01)


async def test_it_opens_once_however_many_fail(caplog: pytest.LogCaptureFixture) -> None:
    metrics, part = PrometheusMetrics(), Part()
    breaker = ProbedBreaker("thing", part.probe, metrics=metrics)
    for _ in range(5):
        breaker.failed("OSError")
    assert breaker.is_open
    assert changes(metrics, "open") == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await breaker.aclose()


async def test_it_asks_by_itself_until_there_is_an_answer() -> None:
    part = Part()
    breaker = ProbedBreaker("thing", part.probe, metrics=PrometheusMetrics())
    breaker.failed("OSError")
    with anyio.fail_after(WITHIN_S):
        await part.asked.wait()
    assert breaker.is_open
    part.is_down = False
    await reaches(breaker, BreakerState.HALF_OPEN)
    assert not breaker.is_open


async def test_the_first_use_after_a_probe_decides(caplog: pytest.LogCaptureFixture) -> None:
    metrics, part = PrometheusMetrics(), Part()
    part.is_down = False
    breaker = ProbedBreaker("thing", part.probe, metrics=metrics)
    breaker.failed("OSError")
    await reaches(breaker, BreakerState.HALF_OPEN)
    breaker.failed("OSError")
    assert breaker.is_open
    await reaches(breaker, BreakerState.HALF_OPEN)
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert (changes(metrics, "open"), changes(metrics, "half-open"), changes(metrics, "closed")) == (2, 2, 1)
    # It stayed down for whoever reads the log: one line when it went, one when it came back.
    assert len(caplog.records) == 2


async def test_a_probe_can_be_proof_enough() -> None:
    part = Part()
    part.is_down = False
    breaker = ProbedBreaker("thing", part.probe, metrics=PrometheusMetrics(), probe_is_proof=True)
    breaker.failed("OSError")
    await reaches(breaker, BreakerState.CLOSED)


async def test_a_success_that_began_before_the_failure_closes_nothing() -> None:
    breaker = ProbedBreaker("thing", Part().probe, metrics=PrometheusMetrics())
    breaker.failed("OSError")
    breaker.succeeded()
    assert breaker.is_open
    await breaker.aclose()


async def test_a_closed_breaker_asks_no_more() -> None:
    part = Part()
    breaker = ProbedBreaker("thing", part.probe, metrics=PrometheusMetrics())
    breaker.failed("OSError")
    await breaker.aclose()
    assert part.questions == 0
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "probe of thing"]
