"""Log lines: one each, whatever is in them, and never a secret (SECURITY.md K3, X3)."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from backend.adapters.db.engine import open_engine
from backend.api.access_log import Line, milliseconds
from backend.domain.api_keys import Environment, mint_key
from backend.logs import FIELDS, JsonFormatter, TextFormatter, redacted, start_logging

KEY = mint_key(Environment.LIVE)[0]
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1c3JfMSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
REFRESH_TOKEN = "fr_" + "aB3-_" * 8 + "xyz"
SECRETS = [
    KEY,
    mint_key(Environment.TEST)[0],
    TOKEN,
    *(prefix + REFRESH_TOKEN.removeprefix("fr_") for prefix in ("fr_", "fm_", "fs_")),
]
FORMATTERS = [JsonFormatter(), TextFormatter()]


def a_record(message: str = "message", *arguments: object, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("forecourt.test", logging.WARNING, __file__, 1, message, arguments, None)
    record.__dict__.update(fields)
    return record


def fail_with(message: str) -> None:
    raise ValueError(message) from KeyError(REFRESH_TOKEN)


def a_failed_record(message: str) -> logging.LogRecord:
    record = a_record()
    try:
        fail_with(message)
    except ValueError:
        record.exc_info = sys.exc_info()
    return record


def json_line(record: logging.LogRecord) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return line


# What a line holds


def test_a_json_line_says_when_how_bad_who_and_what() -> None:
    record = a_record("served %s", "iris", status=200, duration_ms=1.5, request_id="req_1")
    record.created = 1_784_116_800.5
    assert json_line(record) == {
        "time": "2026-07-15T12:00:00.500+00:00",
        "level": "warning",
        "logger": "forecourt.test",
        "message": "served iris",
        "status": 200,
        "duration_ms": 1.5,
        "request_id": "req_1",
    }


def test_a_text_line_says_the_same_for_people() -> None:
    record = a_record("served %s", "iris", status=200, request_id="req_1")
    record.created = 1_784_116_800.5
    assert TextFormatter().format(record) == "12:00:00 warning served iris status=200 request_id=req_1"


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_x3_only_fields_on_the_list_are_written(formatter: logging.Formatter) -> None:
    for name in ("password", "authorization", "body", "query", "headers", "anything"):
        assert name not in FIELDS
        assert "seven elephants" not in formatter.format(a_record(**{name: "seven elephants"}))


def test_fields_without_a_value_are_left_out() -> None:
    assert "client" not in json_line(a_record(client=None))


# K3, K6: no secrets


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize("secret", SECRETS, ids=[f"secret-{number}" for number, _ in enumerate(SECRETS)])
@pytest.mark.parametrize("around", ["{}", "Bearer {}", "/v1/models/{}/predict", "?key={}&x=1", '{{"key":"{}"}}', "a{}"])
def test_k3_a_secret_is_cut_out_wherever_it_stands(formatter: logging.Formatter, secret: str, around: str) -> None:
    text = around.format(secret)
    record = a_record("%s", text, path=text, cause=text)
    line = formatter.format(record)
    assert secret not in line
    assert secret[-20:] not in line
    assert line.count("[redacted]") == 3


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_k3_a_secret_in_an_exception_is_cut_out_of_its_stack(formatter: logging.Formatter) -> None:
    line = formatter.format(a_failed_record(f"cannot use {KEY}"))
    assert KEY not in line
    assert REFRESH_TOKEN not in line
    assert "ValueError: cannot use [redacted]" in line


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_k3_a_secret_in_a_value_that_is_no_text_is_cut_out_too(formatter: logging.Formatter) -> None:
    for value in (ValueError(KEY), {"key": KEY}, [KEY], KEY.encode(), (1, KEY)):
        assert KEY not in formatter.format(a_record(cause=value))


@pytest.mark.anyio
async def test_k3_a_statement_that_failed_tells_none_of_its_values(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite+aiosqlite:///{tmp_path / 'log.db'}", pool_size=2, timeout_s=2.0)
    with pytest.raises(SQLAlchemyError) as failed:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("INSERT INTO nowhere VALUES (?)", ("seven elephants",))
    await engine.dispose()
    assert "nowhere" in str(failed.value)
    assert "seven elephants" not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql+psycopg://app:pa55word@db.internal:5432/forecourt", "db.internal:5432/forecourt"),
        ("redis://:pa55word@cache.internal:6379/0", "cache.internal:6379/0"),
        ("https://user:pa55word@engine.internal/v2", "engine.internal/v2"),
    ],
)
def test_the_password_of_a_url_is_cut_out_and_its_host_stays(url: str, host: str) -> None:
    text = redacted(f"cannot reach {url} now")
    assert "pa55word" not in text
    assert host in text


def test_what_is_no_secret_stays_as_it_is() -> None:
    for text in (
        "fc_live_AbCdEf012345",
        "key_01JD0000000000000000000000",
        "http://127.0.0.1:8000/docs",
        "a.b.c",
        "fr_",
    ):
        assert redacted(text) == text, "prefixes and ids are shown on purpose"


# X3: one record, one line


@pytest.mark.parametrize("formatter", FORMATTERS)
@pytest.mark.parametrize(
    "attack",
    [
        "\r\n2026-07-15 info admin signed in",
        "\n",
        "\r",
        "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",
        "\x1b[2J\x1b[31mred",
        "\x9b31m",
        "\x00\x07\x08\x7f",
        "\ud800",
    ],
)
def test_x3_nothing_in_a_value_begins_a_line_or_moves_the_cursor(formatter: logging.Formatter, attack: str) -> None:
    record = a_record("path %s", attack, path=attack, request_id=attack, cause=ValueError(attack))
    line = formatter.format(record)
    assert len(line.splitlines()) == 1
    assert all(character.isprintable() for character in line)


@given(st.text(st.characters()))
def test_x3_whatever_a_text_it_is_one_printable_line_of_text_that_can_be_encoded(text: str) -> None:
    line = redacted(text)
    assert len(line.splitlines()) <= 1
    line.encode()
    for formatter in FORMATTERS:
        assert len(formatter.format(a_record("%s", text, path=text)).splitlines()) == 1


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_x3_a_stack_is_part_of_its_line(formatter: logging.Formatter) -> None:
    line = formatter.format(a_failed_record("first\nsecond"))
    assert len(line.splitlines()) == 1
    assert "ValueError: first" in line
    assert "test_logs.py" in line


@pytest.mark.parametrize("formatter", FORMATTERS)
@given(
    texts=st.lists(
        st.text(st.characters()) | st.from_regex(r"req_\w*", fullmatch=True) | st.sampled_from(SECRETS),
        min_size=1,
        max_size=5,
    )
)
def test_x3_access_lines_of_a_batch_are_as_each_would_be_by_itself(
    formatter: logging.Formatter, texts: list[str]
) -> None:
    """Whatever a client sends as its path and as its request's id."""
    requests: list[Line] = [{"method": "POST", "path": text, "client": None} for text in texts]
    answered = [
        (requests[at % 2 % len(requests)], 200 + at, at * 0.123456, text, 1e9 + at * 0.7)
        for at, text in enumerate(texts)
    ]
    alone = []
    for request, status, took_s, request_id, created_s in answered:
        told = {"status": status, "duration_ms": milliseconds(took_s), "request_id": request_id}
        record = a_record("request", **request, **told)
        record.created = created_s
        alone.append(formatter.format(record))
    assert formatter.format(a_record("requests", lines=answered)).splitlines() == alone


# The pipeline


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("style", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ],
)
def test_json_for_machines_and_text_for_terminals(
    root: logging.Logger, style: str, stream: io.StringIO, is_json: bool
) -> None:
    listener = start_logging(style=style, level="info", stream=stream)
    logging.getLogger("forecourt.test").info("hello %s", "there", extra={"count": 3})
    listener.stop()
    assert stream.getvalue().startswith("{") is is_json
    assert "hello there" in stream.getvalue()


def test_stopping_writes_everything_that_was_logged_before_and_nothing_below_the_level(root: logging.Logger) -> None:
    stream = io.StringIO()
    listener = start_logging(style="json", level="warning", stream=stream)
    for number in range(500):
        logging.getLogger("forecourt.test").warning("line %d", number)
        logging.getLogger("forecourt.test").info("quiet")
    listener.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == [f"line {number}" for number in range(500)]


def test_an_exception_reaches_the_line_through_the_queue(root: logging.Logger) -> None:
    stream = io.StringIO()
    listener = start_logging(style="json", level="info", stream=stream)
    try:
        fail_with(KEY)
    except ValueError:
        logging.getLogger("forecourt.test").exception("failed")
    listener.stop()
    [line] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "Traceback (most recent call last)" in line["stack"]
    assert line["stack"].rstrip(" |").endswith("ValueError: [redacted]")
