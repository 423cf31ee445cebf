"""The access log. Predictions are many, so their lines are handed to logging in batches: a record each costs more
than all look-ups of a prediction together, and wakes the thread that writes."""

import asyncio
import logging
import time

from starlette.types import Scope

access_log = logging.getLogger("forecourt.access")

BATCH_EVERY_S = 0.1
BATCH_LINES = 1_000

Line = dict[str, object]


def log_access(scope: Scope, status: int, request_id: str, started_s: float) -> None:
    """Write the access line of a request that began at ``started_s`` of the performance counter."""
    if access_log.isEnabledFor(logging.INFO):
        # The path only: a query string may hold what should not have been sent.
        line = access_line(scope["method"], scope["path"], scope.get("client_address"))
        access_log.info("request", extra=_answered(line, status, request_id, started_s))


def access_line(method: str, path: str, client: str | None) -> Line:
    """Return what an access line says that is known before the request is answered."""
    return {"method": method, "path": path, "client": client}


class BatchedAccessLog:
    """Writes the same lines a moment later, many at once."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    def note(self, line: Line, status: int, request_id: str, started_s: float) -> None:
        """Write the access line of a request before long."""
        if not access_log.isEnabledFor(logging.INFO):
            return
        line = _answered(line, status, request_id, started_s)
        line["created"] = time.time()
        self._lines.append(line)
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(BATCH_EVERY_S, self.flush)
        elif len(self._lines) >= BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has been noted."""
        if self._lines:
            lines, self._lines = self._lines, []
            access_log.info("requests", extra={"lines": lines})


def _answered(line: Line, status: int, request_id: str, started_s: float) -> Line:
    return {
        **line,
        "status": status,
        # To two places, as round() would for six times as much.
        "duration_ms": int((time.perf_counter() - started_s) * 100_000 + 0.5) / 100,
        "request_id": request_id,
    }
