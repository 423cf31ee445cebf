"""uvicorn's HTTP/1.1 protocol, with less work for the request that nearly every request is: a whole prediction.

A prediction's request is short: it arrives in one piece, body and all. So one that may be a prediction is held until
the piece has been read to its end. Is it whole then, the application is told so by an extension of ASGI, takes the
body without waiting for it, and answers in one write of bytes that are headers already. Is it not, or is anything
unusual about it (an upgrade, another version of HTTP, a request before it that is still being answered), it goes the
way of all others, which is uvicorn's own.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from backend.api.direct_predictions import WHOLE_REQUEST, may_be_prediction

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class _WholeRequest(RequestResponseCycle):
    """A request whose body is there, and its answer. Implements ``WholeRequest``."""

    def take(self) -> bytes:
        """Return the body."""
        return bytes(self.body)

    def answer(self, status: int, headers: bytes, body: bytes) -> bool:
        """Send the whole answer at once; return whether that was possible."""
        if self.disconnected or self.flow.write_paused:
            # Whoever does not read has to be waited for.
            return False
        lines = [_STATUS_LINES[status], *[b"%b: %b\r\n" % pair for pair in self.default_headers], headers]
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        lines.append(body)
        self.transport.write(b"".join(lines))
        self.response_started = self.response_complete = True
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True


class PredictionProtocol(HttpToolsProtocol):
    """One connection."""

    _held: bytes | None = None
    """The body, as far as it has come, of a request that is held back; ``None`` while none is."""

    def data_received(self, data: bytes) -> None:
        """Read a piece of what the client sends."""
        super().data_received(data)
        body, self._held = self._held, None
        if body is None or self.transport.is_closing():
            return
        # The rest comes in further pieces.
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def on_headers_complete(self) -> None:
        """Begin with a request, or hold it until its body is there."""
        if self._may_be_held():
            self._held = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """Begin with a request that was held."""
        body, self._held = self._held, None
        if body is None:
            super().on_message_complete()
        else:
            self._begin(body)

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
        self.cycle = whole = _WholeRequest(
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
        whole.body += body
        whole.more_body = False
        whole.message_event.set()
        scope["extensions"] = {WHOLE_REQUEST: {"request": whole}}
        self._start_asgi_task(whole, self.app)
