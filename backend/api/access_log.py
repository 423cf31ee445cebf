"""The access log. Predictions are many, so their lines are handed to logging in batches: a record each would wake the
thread that writes."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

access_log = logging.getLogger("forecourt.access")

BATCH_EVERY_S = 0.02
"""While a batch is formatted the event loop stands still, so it is to be a small one: the lines of a tenth of a second
of a busy server take four milliseconds."""
BATCH_LINES = 1_000

Line = dict[str, object]


Answered = tuple[Line, int, float, str, float]
"""An access line of a batch: what is known of its request before it is answered, by field, the same object for all that
say the same; the status; how long it took, in seconds; the request's id; and when it was answered, in seconds since the
epoch. A record would cost more than all look-ups of a prediction together."""


def milliseconds(took_s: float) -> float:
    """Return a duration as a line tells it: to two places, as ``round`` would for six times as much."""
    return int(took_s * 100_000 + 0.5) / 100


def log_access(scope: Mapping[str, Any], status: int, request_id: str, started_s: float) -> None:
    """Write the access line of a request that began at ``started_s`` of the performance counter."""
    if access_log.isEnabledFor(logging.INFO):
        # The path only: a query string may hold what should not have been sent.
        line = access_line(scope["method"], scope["path"], scope.get("client_address"))
        took_ms = milliseconds(time.perf_counter() - started_s)
        access_log.info("request", extra={**line, "status": status, "duration_ms": took_ms, "request_id": request_id})


def access_line(method: str, path: str, client: str | None) -> Line:
    """Return what an access line says that is known before the request is answered."""
    return {"method": method, "path": path, "client": client}


class BatchedAccessLog:
    """Writes the same lines a moment later, many at once."""

    def __init__(self) -> None:
        self._lines: list[Answered] = []

    def note(self, line: Line, status: int, request_id: str, started_s: float) -> None:
        """Write the access line of a request before long."""
        lines = self._lines
        lines.append((line, status, time.perf_counter() - started_s, request_id, time.time()))
        waiting = len(lines)
        if waiting == 1:
            asyncio.get_running_loop().call_later(BATCH_EVERY_S, self.flush)
        elif waiting >= BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has been noted."""
        if self._lines:
            lines, self._lines = self._lines, []
            access_log.info("requests", extra={"lines": lines})
