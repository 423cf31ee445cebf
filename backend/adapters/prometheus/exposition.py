"""Shows the metrics on a port of their own, which is never the public one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from backend.adapters.prometheus.metrics import PrometheusMetrics

log = logging.getLogger(__name__)


@contextmanager
def shown(metrics: PrometheusMetrics, host: str, port: int, *, processes: int = 1) -> Iterator[int]:
    """Serve ``/metrics`` until the block ends; yields the port.

    Each server process has numbers of its own and so a port of its own: the first that is free of ``processes`` ports
    from ``port`` on.

    Raises:
        OSError: none of them is free.
    """
    for candidate in range(port, port + processes):
        try:
            server, thread = start_http_server(candidate, host, registry=metrics.registry)
        except OSError:
            if candidate == port + processes - 1:
                raise
        else:
            break
    log.info("metrics shown", extra={"port": server.server_port})
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
