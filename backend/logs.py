"""Logging: one JSON object a line, or readable text on a terminal; formatted and written off the event loop.

Only the fields named in ``FIELDS`` are written, so that nothing slips out by being attached to a record. Line breaks
inside a value are escaped and anything that looks like one of our secrets is cut out, whoever logged it.
"""

import logging
import queue
import re
import sys
import traceback
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

import orjson

FIELDS = (
    "method",
    "path",
    "status",
    "duration_ms",
    "request_id",
    "client",
    "model",
    "version",
    "tenant_id",
    "event_id",
    "credential_id",
    "attempt",
    "cause",
    "reason",
    "resource",
    "count",
)
_SECRETS = re.compile(
    r"fc_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]+|f[rms]_[\w-]{20,}|eyJ[\w-]{5,}\.[\w-]+\.[\w-]+|://[^/\s:@]*:[^/\s@]+@"
)
# C0 and C1 controls, the other two line breaks of Unicode, and halves of characters, which no encoder takes.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redacted(text: str) -> str:
    """Return a text without secrets and without control characters."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", _SECRETS.sub("[redacted]", text))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in FIELDS:
        value = getattr(record, name, None)
        if value is not None:
            found[name] = value if isinstance(value, bool | int | float) else redacted(str(value))
    return found


def _stack(record: logging.LogRecord) -> str | None:
    if not record.exc_info:
        return None
    return redacted("".join(traceback.format_exception(*record.exc_info)).replace("\n", " | "))


def _records(record: logging.LogRecord) -> list[logging.LogRecord]:
    """Take a batch of access lines apart: a record each, as if each had been logged by itself."""
    lines = getattr(record, "lines", None)
    if lines is None:
        return [record]
    batch = {"name": record.name, "levelname": record.levelname, "levelno": record.levelno, "msg": "request"}
    return [logging.makeLogRecord({**batch, **line}) for line in lines]


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a batch."""
        return "\n".join([self._line(each) for each in _records(record)])

    def _line(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
            **_fields(record),
        }
        stack = _stack(record)
        if stack:
            line["stack"] = stack
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """Readable on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a batch."""
        return "\n".join([self._line(each) for each in _records(record)])

    def _line(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        stack = _stack(record)
        parts = (time, f"{record.levelname.lower():<7}", redacted(record.getMessage()), fields, stack or "")
        return " ".join(part for part in parts if part)


class _Queue(QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The default formats here, on the caller's time, and drops the exception.
        return record


def start_logging(*, style: str, level: str, stream: TextIO | None = None) -> QueueListener:
    """Send every record to ``stream`` (by default standard error) through a queue; stop the listener to flush."""
    stream = stream or sys.stderr
    as_text = style == "text" or (style == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(_Queue(lines))
    root.setLevel(level.upper())
    # The driver and the HTTP client would log the values of statements and whole URLs, which hold secrets of others.
    for noisy in ("uvicorn.access", "httpx", "httpcore", "aiosqlite", "alembic.runtime.migration"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    listener = QueueListener(lines, handler)
    listener.start()
    return listener
