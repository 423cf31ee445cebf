"""Logging: one JSON object a line, or readable text on a terminal; formatted and written off the event loop.

Only the fields named in ``FIELDS`` are written, so that nothing slips out by being attached to a record. Line breaks
inside a value are escaped and anything that looks like one of our secrets is cut out, whoever logged it.
"""

import logging
import queue
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from logging.handlers import QueueHandler, QueueListener
from typing import NamedTuple, TextIO

import orjson

from backend.api.access_log import Answered, milliseconds

FIELDS = (
    "method",
    "path",
    "client",
    "status",
    "duration_ms",
    "request_id",
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
_NUMBERS = (bool, int, float)
_SECRETS = re.compile(
    r"fc_(?:live|test)_[0-9A-Za-z]{12}_[0-9A-Za-z]+|f[rms]_[\w-]{20,}|eyJ[\w-]{5,}\.[\w-]+\.[\w-]+|://[^/\s:@]*:[^/\s@]+@"
)
# C0 and C1 controls, the other two line breaks of Unicode, and halves of characters, which no encoder takes.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# How each of the secrets begins, and what is unsafe: most texts hold none of it, and one look says so.
_SUSPECT = re.compile(r"f[crms]_|eyJ|://|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def redacted(text: str) -> str:
    """Return a text without secrets and without control characters."""
    if not _SUSPECT.search(text):
        return text
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", _SECRETS.sub("[redacted]", text))


class _Line(NamedTuple):
    """What one line says; nothing in it is a secret any more."""

    created_s: float
    level: str
    logger: str
    message: str
    fields: Mapping[str, object]
    stack: str | None = None


def _fields(values: Mapping[str, object]) -> dict[str, object]:
    """Return those of the values that may be written."""
    found: dict[str, object] = {}
    for name in FIELDS:
        value = values.get(name)
        if value is not None:
            found[name] = value if isinstance(value, _NUMBERS) else redacted(str(value))
    return found


def _stack(record: logging.LogRecord) -> str | None:
    if not record.exc_info:
        return None
    return redacted("".join(traceback.format_exception(*record.exc_info)).replace("\n", " | "))


def _lines(record: logging.LogRecord) -> list[_Line]:
    """Return what a record says: one line, or of a batch of access lines each, as if it had been logged by itself."""
    level, logger = record.levelname.lower(), record.name
    batch = getattr(record, "lines", None)
    if batch is None:
        message = redacted(record.getMessage())
        return [_Line(record.created, level, logger, message, _fields(record.__dict__), _stack(record))]
    lines, said = [], dict[int, dict[str, object]]()
    for request, status, took_s, request_id, created_s in batch:
        known = said.get(id(request))  # which the batch keeps alive
        if known is None:
            known = said[id(request)] = _fields(request)
        fields = {
            **known,
            "status": status,
            "duration_ms": milliseconds(took_s),
            "request_id": redacted(request_id),
        }
        lines.append(_Line(created_s, level, logger, "request", fields))
    return lines


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a batch."""
        batch = getattr(record, "lines", None)
        written = _batch_as_json(record, batch) if batch else [_as_json(line) for line in _lines(record)]
        return "\n".join(written)


def _batch_as_json(record: logging.LogRecord, batch: Sequence[Answered]) -> list[str]:
    """Return access lines as each would be by itself; what they all say is encoded once."""
    heads: dict[int, str] = {}
    lines = []
    for request, status, took_s, request_id, created_s in batch:
        head = heads.get(id(request))  # which the batch keeps alive
        if head is None:
            said = {**_origin(record.levelname.lower(), record.name, "request"), **_fields(request)}
            head = heads[id(request)] = orjson.dumps(said).decode()[1:-1]
        # All that needs a look is what could be a secret or end the text: nothing does that is letters and digits.
        is_plain = request_id.isalnum() or (request_id.startswith("req_") and request_id[4:].isalnum())
        name = f'"{request_id}"' if is_plain else orjson.dumps(redacted(request_id)).decode()
        told = f'"status":{status},"duration_ms":{milliseconds(took_s)},"request_id":{name}'
        lines.append(f'{{"time":"{_instant(created_s)}",{head},{told}}}')
    return lines


class TextFormatter(logging.Formatter):
    """Readable on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a batch."""
        return "\n".join([_as_text(line) for line in _lines(record)])


def _as_json(line: _Line) -> str:
    origin = _origin(line.level, line.logger, line.message)
    content: dict[str, object] = {"time": _instant(line.created_s), **origin, **line.fields}
    if line.stack:
        content["stack"] = line.stack
    return orjson.dumps(content).decode()


def _as_text(line: _Line) -> str:
    time = datetime.fromtimestamp(line.created_s, UTC).strftime("%H:%M:%S")
    fields = " ".join(f"{name}={value}" for name, value in line.fields.items())
    parts = (time, f"{line.level:<7}", line.message, fields, line.stack or "")
    return " ".join(part for part in parts if part)


def _origin(level: str, logger: str, message: str) -> dict[str, object]:
    return {"level": level, "logger": logger, "message": message}


def _instant(at_s: float) -> str:
    return f"{_second(int(at_s))}.{int(at_s % 1 * 1000):03d}+00:00"


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    # Thousands of lines share one.
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


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
