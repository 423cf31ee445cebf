"""The circuit breaker, call by call on a clock that the test sets."""

import logging

import pytest

from backend.adapters.breaker import FAILURES_TO_OPEN, REST_S, Breaker, BreakerState
from backend.adapters.prometheus.metrics import PrometheusMetrics
from tests.fakes import FakeClock

DEAD = ConnectionError("dead")


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics()


@pytest.fixture
def breaker(clock: FakeClock, metrics: PrometheusMetrics) -> Breaker:
    return Breaker("redis", metrics, monotonic=clock.now_s)


def enter(breaker: Breaker) -> int:
    ticket = breaker.enter()
    assert ticket is not None
    return ticket


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(enter(breaker), DEAD)


def test_failures_that_are_not_in_a_row_do_not_open_it(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, FAILURES_TO_OPEN - 1)
        breaker.succeeded(enter(breaker))
    assert breaker.is_closed


def test_several_in_a_row_do_and_then_nothing_is_let_through(breaker: Breaker) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    assert breaker.state is BreakerState.OPEN
    assert breaker.enter() is None


def test_after_a_rest_one_call_may_try_and_its_success_closes_it(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    clock.advance(REST_S)
    ticket = enter(breaker)
    assert breaker.enter() is None, "one"
    breaker.succeeded(ticket)
    assert breaker.is_closed


def test_its_failure_is_another_rest(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    clock.advance(REST_S)
    fail(breaker)
    assert breaker.enter() is None
    clock.advance(REST_S)
    assert breaker.enter() is not None


def test_a_try_that_was_given_up_tells_nothing_and_the_next_may_try_at_once(breaker: Breaker, clock: FakeClock) -> None:
    fail(breaker, FAILURES_TO_OPEN)
    clock.advance(REST_S)
    breaker.gave_up(enter(breaker))
    assert not breaker.is_closed
    breaker.succeeded(enter(breaker))
    assert breaker.is_closed


def test_what_could_not_show_recovery_does_not_try(breaker: Breaker, clock: FakeClock) -> None:
    assert breaker.enter(may_try=False) is not None
    fail(breaker, FAILURES_TO_OPEN)
    clock.advance(REST_S)
    assert breaker.enter(may_try=False) is None
    assert breaker.enter() is not None


def test_a_late_answer_from_before_changes_nothing(breaker: Breaker, clock: FakeClock) -> None:
    early = [enter(breaker) for _ in range(4)]
    fail(breaker, FAILURES_TO_OPEN)
    breaker.succeeded(early[0])
    assert breaker.enter() is None
    clock.advance(REST_S)
    ticket = enter(breaker)
    breaker.failed(early[1], DEAD)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.succeeded(ticket)
    for late in early[1:]:
        breaker.failed(late, DEAD)
    assert breaker.is_closed


def test_an_outage_is_two_lines_in_the_log_however_long_and_counted(
    breaker: Breaker, clock: FakeClock, metrics: PrometheusMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fail(breaker, FAILURES_TO_OPEN)
    assert metrics.registry.get_sample_value("forecourt_breaker_open", {"resource": "redis"}) == 1
    for _ in range(5):
        clock.advance(REST_S)
        fail(breaker)
    clock.advance(REST_S)
    breaker.succeeded(enter(breaker))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert metrics.registry.get_sample_value("forecourt_breaker_open", {"resource": "redis"}) == 0
    counted = {
        state: metrics.registry.get_sample_value(
            "forecourt_breaker_transitions_total", {"resource": "redis", "to": state}
        )
        for state in BreakerState
    }
    assert counted == {"closed": 1, "open": 6, "half-open": 6}
