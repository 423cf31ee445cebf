"""Predictions as a plain ASGI route in front of FastAPI: the same services, without the machinery of a framework.

FastAPI's routing, dependencies and responses cost several times what all the rest of a prediction does. So the usual
request is taken here, before any middleware, in one pass. Whatever is unusual about one (a query string, an override of
a dependency, a page's Origin, a header that stands there twice) goes on to FastAPI, whose route in
:mod:`backend.api.routes.predictions` gives the same answer. A test holds the two together.
"""

import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.access_log import BatchedAccessLog, Line, access_line
from backend.api.deps.callers import Authenticators, credential_in
from backend.api.errors import problem_response
from backend.api.middleware import (
    HSTS,
    SECURITY_HEADERS,
    BodyBounds,
    Network,
    client_address,
    request_id_of,
)
from backend.api.prediction_wire import Head, Written, command_of, headers_in, read_question, write
from backend.api.questions import RepeatedQuestions
from backend.api.resources import Resources
from backend.api.whole_requests import WholeRequest, whole_request_in
from backend.domain.callers import PredictCaller
from backend.domain.errors import ForecourtError
from backend.domain.ids import new_id
from backend.services.authentication import KeyAuthenticator, RecentCaller, TokenAuthenticator
from backend.services.predictions import PredictionService

error_log = logging.getLogger("forecourt.errors")

GENERIC_PATH = "/v1/predict"
MODELS_PATH = "/v1/models/"
VERB = "/predict"
_GENERIC, _MODELS, _VERB = GENERIC_PATH.encode(), MODELS_PATH.encode(), VERB.encode()
TOKEN_PATH = "/v1/auth/token"  # noqa: S105  # a path

Headers = dict[bytes, bytes]


class CallerLeft(Exception):
    """The connection ended before the request did: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class _Served:
    """What the application has opened, as this route uses it."""

    resources: Resources
    authenticators: Authenticators
    predictions: PredictionService


@dataclass(slots=True)
class _Usual:
    """What the head of a usual request comes down to, and who sent the last one with it."""

    head: Head
    address: str | None
    line: Line
    tail: str
    """The headers that every answer has."""
    request_id: str | None
    """The caller's own, where there is one that is well-formed."""
    recent: RecentCaller | None = None


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
        self._latest: WholeRequest | None = None
        """The last that was read. They are served in the order in which they are read, so others follow any other."""
        self._questions = RepeatedQuestions()
        self._known: _Served | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one message."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._otherwise(scope, receive, send)
            return
        usual = self._usual(scope)
        whole = whole_request_in(scope)
        if usual is None:
            if scope["path"] == TOKEN_PATH:
                # Many may arrive at once, and each costs several predictions before it is even known what it wants.
                await self._served().resources.precedence.give_way()
            await self._otherwise(scope, receive, send)
        elif whole is None:
            await self._serve(usual, receive, send)
        else:
            if usual.request_id is None:
                whole.remember(partial(self._again, usual))
            await self._serve_whole(usual, whole)

    def _usual(self, scope: Scope) -> _Usual | None:
        """Read a head; ``None`` where it is for FastAPI."""
        path = scope["path"]
        model = _model_in(path)
        headers: Headers = dict(scope["headers"])
        if (path != GENERIC_PATH and model is None) or self._is_unusual(scope, headers):
            return None
        own_id = headers.get(b"x-request-id")
        address = client_address(scope, self._trusted)
        return _Usual(
            head=Head.of("POST", path, model, headers),
            address=address,
            line=access_line("POST", path, address),
            tail=_TAIL + _HSTS if scope["scheme"] == "https" else _TAIL,
            request_id=None if own_id is None else request_id_of(own_id),
        )

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

    def _again(self, usual: _Usual, whole: WholeRequest) -> Coroutine[Any, Any, None] | None:
        """Serve one more request with the same head."""
        if self._app.dependency_overrides:
            return None
        self._latest = whole
        return self._serve_whole(usual, whole)

    async def _serve_whole(self, usual: _Usual, whole: WholeRequest) -> None:
        started_s = time.perf_counter()
        request_id = usual.request_id or new_id("req")
        status = 0
        try:
            written = await self._answer(usual, request_id, whole)
            status = written.status
            lines = f"{written.lines}x-request-id: {request_id}\r\n{usual.tail}"
            while not whole.answer(status, lines, written.body):
                await whole.drained()
        finally:
            whole.leave()
            self.access_log.note(usual.line, status, request_id, started_s)

    async def _serve(self, usual: _Usual, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        request_id = usual.request_id or new_id("req")
        status = 0
        try:
            written = await self._answer(usual, request_id, receive)
            status = written.status
            headers = headers_in(f"{written.lines}x-request-id: {request_id}\r\n{usual.tail}")
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": written.body})
        except CallerLeft:
            return
        finally:
            self.access_log.note(usual.line, status, request_id, started_s)

    async def _answer(self, usual: _Usual, request_id: str, source: Receive | WholeRequest) -> Written:
        try:
            served = self._served()
            recent = usual.recent
            if recent is not None and served.authenticators.keys.still_holds(recent):
                caller = recent.caller
            else:
                caller = await self._authenticate(usual, served.authenticators)
            body = await self._body(source) if callable(source) else self._bounds.checked(source.take())
            head = usual.head
            known = self._questions.find(caller.tenant_id, head.model, body)
            question = known or read_question(body, head.model)
            is_last = self._latest is source
            if is_last:
                self._latest = None
            early: list[Written] = []
            command = command_of(
                head,
                body,
                question,
                request_id,
                others_follow=not is_last,
                anticipate=lambda answer: early.append(write(answer)),
            )
            precedence = served.resources.precedence
            precedence.enter()
            try:
                answer = await served.predictions.predict(caller, command)
            finally:
                precedence.leave()
            if known is None:
                self._questions.keep(caller.tenant_id, head.model, body, question, answer)
            return early[0] if early else write(answer)
        except CallerLeft:
            raise
        except ForecourtError as refusal:
            return _refused(refusal, request_id)
        except Exception:  # noqa: BLE001  # the last place before the server: whatever it is, the caller gets an answer
            error_log.exception("unhandled error", extra={"request_id": request_id})
            return _refused(ForecourtError("Something went wrong on our side."), request_id)

    async def _authenticate(self, usual: _Usual, authenticators: Authenticators) -> PredictCaller:
        headers = usual.head.headers
        key = headers.get(b"x-api-key")
        credential = credential_in(
            headers.get(b"authorization", b"").decode("latin-1"), None if key is None else key.decode("latin-1")
        )
        caller = await authenticators.predict_caller(credential, usual.address)
        usual.recent = authenticators.keys.recent(credential, caller)
        return caller

    async def _body(self, source: Receive) -> bytes:
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


def _as_lines(headers: list[tuple[bytes, bytes]]) -> str:
    return b"".join([b"%b: %b\r\n" % pair for pair in headers]).decode("latin-1")


def _refused(refusal: ForecourtError, request_id: str) -> Written:
    response = problem_response(refusal, request_id)
    return Written(response.status_code, _as_lines(response.raw_headers), bytes(response.body))


_TAIL, _HSTS = _as_lines(SECURITY_HEADERS), _as_lines([HSTS])
