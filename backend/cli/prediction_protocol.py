"""uvicorn's HTTP/1.1 protocol, with less work for the request that nearly every request is: a whole prediction.

A prediction's request is short: it arrives in one piece, body and all. So one that may be a prediction is held until
the piece has been read to its end. Is it whole then, the application is told so by an extension of ASGI, takes the
body without waiting for it, and answers in one write of bytes that are headers already. Is it not, or is anything
unusual about it (an upgrade, another version of HTTP, a request before it that is still being answered), it goes the
way of all others, which is uvicorn's own.

A program that predicts sends the same head each time, but for the length of the body. So a head that has been read
once is remembered by its connection, as the bytes around that length: what comes with the very same bytes need not be
read again, and goes straight to whatever the application has made of them.
"""

import asyncio
import re
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from backend.api.direct_predictions import may_be_prediction
from backend.api.whole_requests import WHOLE_REQUEST, ServeAgain

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)(?=\r\n)", re.IGNORECASE)

MOST_DIGITS = 8
MOST_HEAD_BYTES = 4096
MOST_IN_VAIN = 8
"""Heads that were remembered and did not come again, after which a connection remembers no more."""


class _Remembered(NamedTuple):
    """The bytes before and after the length in a head, and what serves requests that have them."""

    before: bytes
    after: bytes
    serve: ServeAgain


class _Whole:
    """A request that is there to its end, and its answer. Implements ``WholeRequest``."""

    protocol: "PredictionProtocol"
    disconnected: bool
    keep_alive: bool
    response_complete: bool

    def answer(self, status: int, headers: str, body: bytes) -> bool:
        """Send the whole answer at once; return whether that was possible."""
        protocol = self.protocol
        if self.disconnected:
            # There is nobody to send it to.
            self.response_complete = True
            return True
        if protocol.flow.write_paused:
            return False
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        lines = (_STATUS_LINES[status], protocol.default_lines(), headers.encode("latin-1"), end, body)
        if protocol.holds_back:
            protocol.hold_nothing_back()
        protocol.transport.write(b"".join(lines))
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_whole_answer()
        return True

    async def drained(self) -> None:
        """Wait until the caller has read enough to be sent more."""
        await self.protocol.flow.drain()


class _First(_Whole, RequestResponseCycle):
    """One whose head was read: it may still go the way of all others."""

    piece: bytes

    def take(self) -> bytes:
        """Return the body."""
        return bytes(self.body)

    def answer(self, status: int, headers: str, body: bytes) -> bool:
        """Send the whole answer at once; return whether that was possible."""
        self.response_started = super().answer(status, headers, body)
        return self.response_started

    def remember(self, serve: ServeAgain) -> None:
        """Let further requests of this connection that say the same be served so."""
        self.protocol.remember(self.piece, len(self.body), serve)

    def leave(self) -> None:
        """Be done with it: uvicorn sees to the rest."""


class _Again(_Whole):
    """One whose head was known."""

    message_event = asyncio.Event()
    """Set for all of them when a connection is lost. Nobody waits for it: the message is here."""

    def __init__(self, protocol: "PredictionProtocol", body: bytes) -> None:
        self.protocol = protocol
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self._body = body

    def take(self) -> bytes:
        """Return the body."""
        return self._body

    def begin(self, serving: Coroutine[Any, Any, None]) -> None:
        """Serve it, as a task that the server waits for when it ends."""
        self.task = self.protocol.loop.create_task(serving)
        self.protocol.tasks.add(self.task)

    def remember(self, serve: ServeAgain) -> None:
        """Do nothing: it is known how further ones are served."""

    def leave(self) -> None:
        """Be done with it."""
        self.protocol.tasks.discard(self.task)
        if not self.response_complete:
            self.protocol.transport.close()


class PredictionProtocol(HttpToolsProtocol):
    """One connection."""

    _held: bytes | None = None
    """The body, as far as it has come, of a request that is held back; ``None`` while none is."""

    _piece = b""
    """What is being read, if it begins with a request."""
    _is_between = True
    """Whether the parser has read all requests to their ends."""
    _remembered: _Remembered | None = None
    _in_vain = 0
    _answered_at_s = 0.0
    holds_back = True  # small writes, as the loop does until its turn has ended

    _defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")

    def data_received(self, data: bytes) -> None:
        """Read a piece of what the client sends."""
        known = self._remembered
        if known is not None and data.startswith(known.before) and self._serve_again(known, data):
            return
        self._piece = data if self._is_between else b""
        super().data_received(data)
        self._piece = b""
        body, self._held = self._held, None
        if body is None or self.transport.is_closing():
            return
        # The rest comes in further pieces.
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        self._is_between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin with a request, or hold it until its body is there."""
        if self._may_be_held():
            self._held = b""
            return
        if not self.holds_back:
            self.holds_back = True  # its headers and its body are two writes
            self.transport.set_write_buffer_limits()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """Begin with a request that was held."""
        self._is_between = True
        body, self._held = self._held, None
        if body is None:
            super().on_message_complete()
        else:
            self._begin(body)

    def on_whole_answer(self) -> None:
        """Wait for the next request: as uvicorn does, but with one timer for many, which looks when it rings whether
        anything has come since. To set one and call it off for each request costs more than to read its head."""
        if self.pipeline or self.flow.read_paused or self.timeout_keep_alive_task is None:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
        self._answered_at_s = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing has come for so long."""
        self.timeout_keep_alive_task = None
        if not self._is_free():
            # Whoever answers sets it again.
            return
        left_s = self._answered_at_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def hold_nothing_back(self) -> None:
        """Let what is written next leave at once, not at the end of the loop's turn."""
        self.holds_back = False
        self.transport.set_write_buffer_limits(high=0)

    def remember(self, piece: bytes, body_bytes: int, serve: ServeAgain) -> None:
        """Serve further requests so that come like one that came in this piece."""
        end = piece.find(b"\r\n\r\n") + 4
        # Nothing stands before or behind it, and its body is spelt as it is: no chunks.
        if end + body_bytes != len(piece) or end > MOST_HEAD_BYTES or self._in_vain > MOST_IN_VAIN:
            return
        length = _LENGTH.search(piece, 0, end)
        if length is None:
            return
        self._in_vain += 1
        self._remembered = _Remembered(piece[: length.start(1)], piece[length.end(1) : end], serve)

    def default_lines(self) -> bytes:
        """Return the headers that the server adds to every answer. They change each second."""
        headers = self.server_state.default_headers
        known, lines = PredictionProtocol._defaults
        if known is not headers:
            lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            PredictionProtocol._defaults = headers, lines
        return lines

    def _serve_again(self, known: _Remembered, data: bytes) -> bool:
        """Serve a piece that begins as a known head does, if it is one whole request with that head."""
        start = len(known.before)
        end = data.find(b"\r", start, start + MOST_DIGITS + 1)
        if end < 0 or not data.startswith(known.after, end) or not self._is_free():
            return False
        digits, body_at = data[start:end], end + len(known.after)
        if not digits.isdigit() or int(digits) != len(data) - body_at:
            return False
        whole = _Again(self, data[body_at:])
        serving = known.serve(whole)
        if serving is None:
            return False
        self._in_vain = 0
        self.cycle = whole  # type: ignore[assignment]  # all that uvicorn asks of one that it has not begun itself
        whole.begin(serving)
        return True

    def _is_free(self) -> bool:
        """Whether no request is being read or answered."""
        before = self.cycle
        return self._is_between and (before is None or before.response_complete) and not self.transport.is_closing()

    def _may_be_held(self) -> bool:
        parser, before = self.parser, self.cycle
        return (
            may_be_prediction(self.url)
            and parser.get_method() == b"POST"
            and (before is None or before.response_complete)
            and not (self.root_path or self.limit_concurrency or self.expect_100_continue)
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
        )

    def _begin(self, body: bytes) -> None:
        scope = self.scope
        scope["method"] = "POST"
        scope["path"] = self.url.decode("ascii")
        scope["raw_path"] = self.url
        scope["query_string"] = b""
        self.cycle = whole = _First(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        whole.protocol = self
        whole.piece = self._piece
        whole.body += body
        whole.more_body = False
        whole.message_event.set()
        scope["extensions"] = {WHOLE_REQUEST: {"request": whole}}
        self._start_asgi_task(whole, self.app)
