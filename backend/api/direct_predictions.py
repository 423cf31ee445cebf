"""Predictions as a plain ASGI route in front of FastAPI: the same services, without the machinery of a framework.

FastAPI's routing, dependencies and responses cost several times what all the rest of a prediction does. So the usual
request is taken here, before any middleware, in one pass. Whatever is unusual about one (a query string, an override of
a dependency, a page's Origin, a header that stands there twice) goes on to FastAPI, whose route in
:mod:`backend.api.routes.predictions` gives the same answer. A test holds the two together.
"""

import logging
import time
from dataclasses import dataclass
from typing import Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.access_log import BatchedAccessLog
from backend.api.deps.callers import Authenticators, credential_in
from backend.api.errors import problem_response
from backend.api.limit_headers import RawHeaders
from backend.api.middleware import (
    HSTS,
    SECURITY_HEADERS,
    BodyBounds,
    Network,
    client_address,
    request_id_of,
)
from backend.api.prediction_wire import Sent, Written, read_command, write
from backend.api.resources import Resources
from backend.domain.errors import ForecourtError
from backend.services.authentication import KeyAuthenticator, TokenAuthenticator
from backend.services.predictions import PredictionService

error_log = logging.getLogger("forecourt.errors")

GENERIC_PATH = "/v1/predict"
MODELS_PATH = "/v1/models/"
VERB = "/predict"
_GENERIC, _MODELS, _VERB = GENERIC_PATH.encode(), MODELS_PATH.encode(), VERB.encode()
TOKEN_PATH = "/v1/auth/token"  # noqa: S105  # a path

WHOLE_REQUEST = "forecourt.whole-request"
"""The extension of ASGI by which a server says that a request is there to its end: ``{"request": WholeRequest}``."""

Headers = dict[bytes, bytes]


class WholeRequest(Protocol):
    """A request of which nothing is awaited any more."""

    def take(self) -> bytes:
        """Return the body."""
        ...

    def answer(self, status: int, headers: bytes, body: bytes) -> bool:
        """Send an answer at once; return whether that was possible, otherwise it has to be sent the usual way.

        Args:
            status: of HTTP.
            headers: as lines, each with its end; one of them tells the length of the body.
            body: the whole of it.
        """
        ...


class CallerLeft(Exception):
    """The connection ended before the request did: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What the application has opened, as this route uses it."""

    resources: Resources
    authenticators: Authenticators
    predictions: PredictionService


class Application(FastAPI):
    """FastAPI, and what stands before it."""

    front: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        await (self.front or self.behind)(scope, receive, send)

    async def behind(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message with FastAPI."""
        await super().__call__(scope, receive, send)


class DirectPredictions:
    """Takes the usual prediction; everything else is for the application behind."""

    def __init__(
        self,
        app: Application,
        *,
        bounds: BodyBounds,
        trusted_proxies: tuple[Network, ...],
        is_called_by_pages: bool,
    ) -> None:
        self._app = app
        self._otherwise = app.behind
        self._bounds = bounds
        self._trusted = trusted_proxies
        self._is_called_by_pages = is_called_by_pages
        self.access_log = BatchedAccessLog()
        self._known: _Served | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._otherwise(scope, receive, send)
            return
        path = scope["path"]
        model = _model_in(path)
        headers: Headers = dict(scope["headers"])
        if (path != GENERIC_PATH and model is None) or self._is_unusual(scope, headers):
            if path == TOKEN_PATH:
                # Many may arrive at once, and each costs several predictions before it is even known what it wants.
                await self._served().resources.precedence.give_way()
            await self._otherwise(scope, receive, send)
            return
        started_s = time.perf_counter()
        request_id = request_id_of(headers.get(b"x-request-id"))
        scope["request_id"] = request_id
        address = scope["client_address"] = client_address(scope, self._trusted)
        status = 0
        try:
            whole = _whole_request(scope)
            written = await self._answer(path, headers, request_id, model, address, whole or receive)
            status = written.status
            finished = _finished(written, scope)
            if whole is None or not whole.answer(status, _as_lines(finished), written.body):
                await send({"type": "http.response.start", "status": status, "headers": finished})
                await send({"type": "http.response.body", "body": written.body})
        except CallerLeft:
            return
        finally:
            self.access_log.note(scope, status, request_id, started_s)

    def _is_unusual(self, scope: Scope, headers: Headers) -> bool:
        return bool(
            scope["query_string"]
            or len(headers) != len(scope["headers"])
            or b"content-encoding" in headers
            or (self._is_called_by_pages and b"origin" in headers)
            or scope.get("root_path")
            or self._app.dependency_overrides
            or self._bounds.forbid(headers.get(b"content-length"))
        )

    async def _answer(
        self,
        path: str,
        headers: Headers,
        request_id: str,
        model: str | None,
        address: str | None,
        source: Receive | WholeRequest,
    ) -> Written:
        try:
            served = self._served()
            key = headers.get(b"x-api-key")
            credential = credential_in(
                headers.get(b"authorization", b"").decode("latin-1"), None if key is None else key.decode("latin-1")
            )
            caller = await served.authenticators.predict_caller(credential, address)
            body = await self._body(source)
            command = read_command(Sent("POST", path, headers, request_id, body), model)
            served.resources.precedence.enter()
            try:
                return write(await served.predictions.predict(caller, command))
            finally:
                served.resources.precedence.leave()
        except CallerLeft:
            raise
        except ForecourtError as refusal:
            return _refused(refusal, request_id)
        except Exception:  # noqa: BLE001  # the last place before the server: whatever it is, the caller gets an answer
            error_log.exception("unhandled error", extra={"request_id": request_id})
            return _refused(ForecourtError("Something went wrong on our side."), request_id)

    async def _body(self, source: Receive | WholeRequest) -> bytes:
        if not callable(source):
            return self._bounds.checked(source.take())
        receive = self._bounds.bounded(source)
        message = await receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False):
            message = await receive()
            body += message.get("body", b"")
        if message["type"] != "http.request":
            raise CallerLeft
        return body

    def _served(self) -> _Served:
        resources: Resources = self._app.state.resources
        known = self._known
        if known is None or known.resources is not resources:
            keys = KeyAuthenticator(
                keys=resources.key_directory,
                strangers=resources.strangers,
                hasher=resources.key_hasher,
                use=resources.key_use,
                clock=resources.clock,
            )
            tokens = TokenAuthenticator(tokens=resources.token_issuer, store=resources.store, clock=resources.clock)
            authenticators = Authenticators(keys=keys, tokens=tokens)
            known = self._known = _Served(resources, authenticators, resources.predictions)
        return known


def may_be_prediction(target: bytes) -> bool:
    """Whether a request's target, as it was sent, is one that this route may answer."""
    return target == _GENERIC or (
        target.startswith(_MODELS) and target.endswith(_VERB) and b"%" not in target and b"?" not in target
    )


def _model_in(path: str) -> str | None:
    """Return the model that a path names, where it is one of a model's predictions."""
    if not (path.startswith(MODELS_PATH) and path.endswith(VERB)):
        return None
    model = path[len(MODELS_PATH) : -len(VERB)]
    return model if model and "/" not in model and "\0" not in model else None


def _finished(written: Written, scope: Scope) -> RawHeaders:
    headers = [*written.headers, (b"x-request-id", scope["request_id"].encode()), *SECURITY_HEADERS]
    if scope["scheme"] == "https":
        headers.append(HSTS)
    return headers


def _whole_request(scope: Scope) -> WholeRequest | None:
    extensions = scope.get("extensions")
    if not extensions or WHOLE_REQUEST not in extensions:
        return None
    # Taken out: a request and its scope that held each other would have to be found by the collector.
    whole: WholeRequest = extensions.pop(WHOLE_REQUEST)["request"]
    return whole


def _as_lines(headers: RawHeaders) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def _refused(refusal: ForecourtError, request_id: str) -> Written:
    response = problem_response(refusal, request_id)
    return Written(response.status_code, response.raw_headers, bytes(response.body))
