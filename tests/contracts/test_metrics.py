"""What every adapter of ``Metrics`` does; and what Prometheus reads of the one that keeps the numbers."""

import socket
import threading
import urllib.request

import pytest

from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.prometheus.exposition import shown
from backend.adapters.prometheus.metrics import PrometheusMetrics
from backend.services.ports import Metrics


@pytest.fixture(params=[PrometheusMetrics, NullMetrics])
def metrics(request: pytest.FixtureRequest) -> Metrics:
    return request.param()  # type: ignore[no-any-return]


def test_an_instrument_can_be_asked_for_again(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.counter("forecourt_seen_total", "Seen.", verdict="ok").add()
        metrics.counter("forecourt_seen_total", "Seen.", verdict="late").add(2)
        metrics.gauge("forecourt_waiting_rows", "Waiting.").set(7)
        metrics.histogram("forecourt_wait_seconds", "Wait.", buckets=(0.1, 1.0)).observe(0.5)


def test_what_was_counted_is_shown() -> None:
    metrics = PrometheusMetrics()
    for _ in range(2):
        metrics.counter("forecourt_seen_total", "Seen.", verdict="ok", model="iris").add(1.5)
        metrics.gauge("forecourt_waiting_rows", "Waiting.").set(7)
        metrics.histogram("forecourt_wait_seconds", "Wait.", buckets=(0.1, 1.0)).observe(0.5)
    sample = metrics.registry.get_sample_value
    assert sample("forecourt_seen_total", {"verdict": "ok", "model": "iris"}) == 3
    assert sample("forecourt_waiting_rows") == 7
    assert sample("forecourt_wait_seconds_bucket", {"le": "0.1"}) == 0
    assert sample("forecourt_wait_seconds_bucket", {"le": "1.0"}) == 2


def test_a_value_at_a_bound_belongs_below_it_and_one_past_all_bounds_is_counted() -> None:
    metrics = PrometheusMetrics()
    wait = metrics.histogram("forecourt_wait_seconds", "Wait.", buckets=(0.00001, 1.0), model="iris")
    for value in (0.00001, 1.0, 1.5):
        wait.observe(value)
    sample = metrics.registry.get_sample_value
    found = [
        sample("forecourt_wait_seconds_bucket", {"model": "iris", "le": bound}) for bound in ("1e-05", "1.0", "+Inf")
    ]
    assert found == [1, 2, 3]
    assert sample("forecourt_wait_seconds_count", {"model": "iris"}) == 3
    assert sample("forecourt_wait_seconds_sum", {"model": "iris"}) == 2.50001


def test_what_several_threads_count_at_once_is_all_there() -> None:
    metrics = PrometheusMetrics()

    def count() -> None:
        seen = metrics.counter("forecourt_seen_total", "Seen.", verdict="ok")
        wait = metrics.histogram("forecourt_wait_seconds", "Wait.", buckets=(1.0,), verdict="ok")
        for _ in range(20_000):
            seen.add()
            wait.observe(0.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sample = metrics.registry.get_sample_value
    assert sample("forecourt_seen_total", {"verdict": "ok"}) == 80_000
    assert sample("forecourt_wait_seconds_count", {"verdict": "ok"}) == 80_000
    assert sample("forecourt_wait_seconds_sum", {"verdict": "ok"}) == 40_000


def test_a_counter_only_grows() -> None:
    with pytest.raises(ValueError, match="only grows"):
        PrometheusMetrics().counter("forecourt_seen_total", "Seen.").add(-1)


def test_labels_stand_by_their_names() -> None:
    metrics = PrometheusMetrics()
    metrics.counter("forecourt_seen_total", "Seen.", verdict="ok", model="iris").add()
    metrics.counter("forecourt_seen_total", "Seen.", model="iris", verdict="ok").add()
    assert metrics.registry.get_sample_value("forecourt_seen_total", {"verdict": "ok", "model": "iris"}) == 2


def test_a_name_keeps_its_kind_and_its_labels() -> None:
    metrics = PrometheusMetrics()
    metrics.counter("forecourt_seen_total", "Seen.", verdict="ok")
    with pytest.raises(TypeError):
        metrics.gauge("forecourt_seen_total", "Seen.", verdict="ok")
    with pytest.raises(ValueError, match="label"):
        metrics.counter("forecourt_seen_total", "Seen.", model="iris")


def test_values_past_the_cap_are_counted_together() -> None:
    metrics = PrometheusMetrics(most_series=3)
    for number in range(10):
        metrics.counter("forecourt_seen_total", "Seen.", model=f"m{number}").add()
    metrics.counter("forecourt_seen_total", "Seen.", model="m1").add()
    sample = metrics.registry.get_sample_value
    assert sample("forecourt_seen_total", {"model": "m1"}) == 2
    assert sample("forecourt_seen_total", {"model": "m9"}) is None
    assert sample("forecourt_seen_total", {"model": "other"}) == 7


def test_each_process_shows_its_own_numbers_on_a_port_of_its_own() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.counter("forecourt_seen_total", "Seen.").add(5)
    port = _two_free_ports()
    with shown(first, "127.0.0.1", port, processes=2) as here, shown(second, "127.0.0.1", port, processes=2) as there:
        assert (here, there) == (port, port + 1)
        with urllib.request.urlopen(f"http://127.0.0.1:{here}/metrics", timeout=5) as answer:
            assert b"forecourt_seen_total 5.0" in answer.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{there}/metrics", timeout=5) as answer:
            assert b"forecourt_seen_total" not in answer.read()
        with pytest.raises(OSError, match="in use"), shown(first, "127.0.0.1", port, processes=2):
            pass


def _two_free_ports() -> int:
    """Return a port that is free, as is the one after it."""
    for _ in range(50):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports beside each other")
