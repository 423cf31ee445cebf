"""Pure ASGI middleware: what every message passes, before and after routing.

``RequestContext`` gives each request its id, answers what nobody caught, adds the security headers and writes the
access line. ``BodyGuard`` bounds a body in length and in time, and refuses credentials in the URL.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from types import CoroutineType
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.access_log import log_access
from backend.api.errors import problem_response
from backend.domain.errors import (
    BadRequest,
    ForecourtError,
    KeyInUrl,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedEncoding,
)
from backend.domain.ids import new_id

error_log = logging.getLogger("forecourt.errors")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_CREDENTIAL_NAMES = frozenset(
    {
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
        "key",
        "access_token",
        "refresh_token",
        "token",
        "secret",
        "client_secret",
        "password",
    }
)
_WRITTEN_KEY = re.compile(r"fc_(?:live|test)_")
_WRITTEN_TOKEN = re.compile(r"f[rms]_[\w-]{43}|eyJ[\w-]+\.[\w-]+\.[\w-]*")

Network = IPv4Network | IPv6Network


class RequestContext:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, *, trusted_proxies: Sequence[Network] = ()) -> None:
        self._app = app
        self._trusted = tuple(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = request_id_of(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        scope["request_id"] = request_id
        scope["client_address"] = client_address(scope, self._trusted)
        extra = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
        if scope["scheme"] == "https":
            extra.append(HSTS)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:  # noqa: BLE001  # the last place before the server: whatever it is, the caller gets an answer
            error_log.exception("unhandled error", extra={"request_id": request_id})
            if status == 0:
                answer = problem_response(ForecourtError("Something went wrong on our side."), request_id)
                await answer(scope, receive, send_with_headers)
        finally:
            log_access(scope, status, request_id, started_s)


class _Begun:
    """The rest of a coroutine that has been begun, and waits for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, Message], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Message]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    answer = yield waits_for
                except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the coroutine
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(answer)
        except StopIteration as ended:
            message: Message = ended.value
            return message


async def _within(seconds: float, receiving: Awaitable[Message]) -> Message:
    """Wait for a message; what is there already, as a body nearly always is, is taken without setting a timer.

    Raises:
        RequestTimeout: it did not come in time.
    """
    if isinstance(receiving, CoroutineType):
        try:
            waits_for = receiving.send(None)
        except StopIteration as ended:
            message: Message = ended.value
            return message
        receiving = _Begun(receiving, waits_for)
    try:
        async with asyncio.timeout(seconds):
            return await receiving
    except TimeoutError:
        raise RequestTimeout from None


class BodyBounds:
    """How long a request's body may be, and how long it may take."""

    def __init__(self, *, limit_bytes: int, timeout_s: float) -> None:
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s

    def forbid(self, content_length: bytes | None) -> bool:
        """Whether a body that says its length says one that is too much."""
        return content_length is not None and content_length.isdigit() and int(content_length) > self._limit_bytes

    def too_large(self) -> PayloadTooLarge:
        """Return the refusal of a body that is too long."""
        return PayloadTooLarge(f"The body may have at most {self._limit_bytes} bytes.")

    def checked(self, body: bytes) -> bytes:
        """Return a body that is here already.

        Raises:
            PayloadTooLarge: it is longer than it may be.
        """
        if len(body) > self._limit_bytes:
            raise self.too_large()
        return body

    def bounded(self, receive: Receive) -> Receive:
        """Return what receives a body as long as it is neither too long nor too slow."""
        received_bytes = 0
        deadline_s: float | None = None
        complete = False

        async def bounded_receive() -> Message:
            nonlocal received_bytes, deadline_s, complete
            if complete:
                # The body is here: what comes now is only the end of the connection, whenever that is.
                return await receive()
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + self._timeout_s
            message = await _within(deadline_s - now_s, receive())
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                raise self.too_large()
            complete = not message.get("more_body", False)
            return message

        return bounded_receive


class BodyGuard:
    """Refuses long, slow and compressed bodies, and credentials in the URL, as cheaply as can be."""

    def __init__(self, app: ASGIApp, *, bounds: BodyBounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await problem_response(refusal, scope["request_id"])(scope, receive, send)
            return
        await self._app(scope, self._bounds.bounded(receive), send)

    def _refusal(self, scope: Scope) -> ForecourtError | None:
        if scope["query_string"] and _holds_credential(scope["query_string"]):
            return KeyInUrl()
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            return BadRequest("The URL holds a character that no name or id has.")
        for name, value in scope["headers"]:
            if name == b"content-length" and self._bounds.forbid(value):
                return self._bounds.too_large()
            if name == b"content-encoding" and value.lower() not in {b"", b"identity"}:
                return UnsupportedEncoding()
        return None


def request_id_of(header: bytes | None) -> str:
    """Return the caller's own id of the request where it is well-formed, or else a fresh one."""
    return new_id("req") if header is None or not _REQUEST_ID.fullmatch(header) else header.decode()


def _holds_credential(query: bytes) -> bool:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=None)
    return any(name.lower() in _CREDENTIAL_NAMES or _is_credential(name, value) for name, value in pairs)


def _is_credential(name: str, value: str) -> bool:
    for text in (name, value):
        if _WRITTEN_KEY.search(text):
            return True
        # A cursor is random text too, and may look like anything so short.
        if name != "cursor" and _WRITTEN_TOKEN.fullmatch(text):
            return True
    return False


def client_address(scope: Scope, trusted: Sequence[Network]) -> str | None:
    """Return the caller's address: the peer's, or behind trusted proxies the right-most hop that is not one of them.

    What stands further left in X-Forwarded-For was written by the caller and proves nothing.
    """
    peer = scope["client"][0] if scope.get("client") else None
    if not trusted or peer is None or not _is_trusted(peer, trusted):
        return peer
    header = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    hops = [hop.strip() for hop in header.split(",") if hop.strip()]
    for hop in reversed(hops):
        if not _is_trusted(hop, trusted):
            return hop if _address(hop) else peer
        peer = hop
    return peer


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in trusted)
