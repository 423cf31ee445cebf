"""Predictions have two routes, a plain one and FastAPI's: whichever a request takes, it gets the same answer."""

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from starlette.types import ASGIApp, Message, Scope

from backend.api import deps
from backend.domain.api_keys import Environment
from backend.domain.scopes import Role
from backend.domain.scopes import Scope as Permission
from backend.logs import JsonFormatter
from tests.api.conftest import IRIS, Key, World
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

GOOD = {"model": "iris", "inputs": IRIS}
NAMED = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}

BODIES: dict[str, Any] = {
    "good": GOOD,
    "several-rows": {"model": "iris", "inputs": [[6.3, 3.3, 6.0, 2.5], IRIS[0]]},
    "named": {"model": "iris", "inputs": [NAMED]},
    "version": {"model": "iris@1", "inputs": IRIS},
    "alias": {"model": "iris@stable", "inputs": IRIS},
    "regressor": {"model": "breast-cancer", "inputs": [[1.0] * 30]},
    "labels-only": {**GOOD, "parameters": {"probabilities": False}},
    "with-parameters": {**GOOD, "parameters": {}},
    "unknown-model": {**GOOD, "model": "nobody"},
    "impossible-model": {**GOOD, "model": "No Body"},
    "model-of-another-type": {**GOOD, "model": 5},
    "without-model": {"inputs": IRIS},
    "without-inputs": {"model": "iris"},
    "inputs-of-another-type": {"model": "iris", "inputs": {"0": 1}},
    "no-rows": {"model": "iris", "inputs": []},
    "too-many-rows": {"model": "iris", "inputs": IRIS * 1001},
    "narrow": {"model": "iris", "inputs": [[1.0]]},
    "wrong-value": {"model": "iris", "inputs": [[1.0, 2.0, "three", 4.0]]},
    "null": {"model": "iris", "inputs": [[1.0, 2.0, None, 4.0]]},
    "unknown-field": {**GOOD, "surprise": 1},
    "unknown-parameter": {**GOOD, "parameters": {"surprise": 1}},
    "parameter-of-another-type": {**GOOD, "parameters": {"probabilities": "yes"}},
    "a-list": [],
    "a-number": 3,
}
RAW_BODIES = {
    "empty": b"",
    "not-json": b"{",
    "not-utf8": b'{"model": "\xff"}',
    "nan": b'{"model": "iris", "inputs": [[NaN, 1, 1, 1]]}',
    "infinity": b'{"model": "iris", "inputs": [[1, 1, 1, -Infinity]]}',
    "huge-number": b'{"model": "iris", "inputs": [[1e999, 1, 1, 1]]}',
    "huge-integer": b'{"model": "iris", "inputs": [[' + b"9" * 400 + b", 1, 1, 1]]}",
    "same-name-twice": b'{"model": "nobody", "model": "iris", "inputs": [[5.1, 3.5, 1.4, 0.2]]}',
    "half-a-character": b'{"model": "\\ud800", "inputs": [[5.1, 3.5, 1.4, 0.2]]}',
    "deep": b'{"model": "iris", "inputs": ' + b"[" * 500 + b"]" * 500 + b"}",
    "too-long": b" " * (4 * 1024 * 1024 + 1),
}
HEADERS: dict[str, dict[str, str]] = {
    "own-request-id": {"X-Request-Id": "mine-1"},
    "bad-request-id": {"X-Request-Id": "not mine!"},
    "no-cache": {"Cache-Control": "No-Cache"},
    "no-store": {"Cache-Control": "max-age=0, no-store"},
    "bad-idempotency-key": {"Idempotency-Key": "caf\u00e9"},
    "long-idempotency-key": {"Idempotency-Key": "x" * 256},
    "compressed": {"Content-Encoding": "gzip"},
    "not-compressed": {"Content-Encoding": "identity"},
    "page": {"Origin": "https://example.com"},
    "as-text": {"Content-Type": "text/plain"},
}
PATHS = {
    "own-path": "/v1/models/iris/predict",
    "own-path-with-version": "/v1/models/iris@1/predict",
    "own-path-escaped": "/v1/models/iris%40stable/predict",
    "own-path-of-nobody": "/v1/models/nobody/predict",
    "own-path-impossible": "/v1/models/No%20Body/predict",
    "own-path-with-a-slash": "/v1/models/a%2Fb/predict",
    "own-path-with-nothing": "/v1/models//predict",
    "own-path-with-zero": "/v1/models/a%00/predict",
    "own-path-too-short": "/v1/models/predict",
    "slash-behind": "/v1/predict/",
    "query": "/v1/predict?verbose=1",
    "key-in-query": "/v1/predict?api_key=secret",
}


def _without_what_changes(answer: Response) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and body, without ids and without what is left of the limits."""
    headers = dict(answer.headers)
    for name in ("ratelimit", "x-quota-used", "x-quota-remaining"):
        if name in headers:
            headers[name] = re.sub(r"\d+", "#", headers[name])
    if re.fullmatch(r"req_\w{26}", headers["x-request-id"]):
        headers["x-request-id"] = "fresh"
    body = re.sub(r"(evt|req)_\w{26}", r"\1_#", answer.text)
    headers.pop("content-length")
    return answer.status_code, headers, json.loads(body)


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://testserver", timeout=30) as client:
        yield client


class Both:
    """Sends the same request over both routes."""

    def __init__(self, world: World, key: Key, direct: AsyncClient, behind: AsyncClient) -> None:
        self.world = world
        self.key = key
        self.direct = direct
        self.behind = behind

    async def post(self, path: str = "/v1/predict", **request: Any) -> Response:
        """Check that the answers are alike, and return the direct one."""
        request.setdefault("headers", {})
        if not {"Authorization", "X-API-Key"} & request["headers"].keys():
            request["headers"] = {**self.key.headers, **request["headers"]}
        # Headers are Latin-1 on the wire, which httpx does not assume.
        request["headers"] = {name: value.encode("latin-1") for name, value in request["headers"].items()}
        answers = []
        for client in (self.direct, self.behind):
            answers.append(await client.post(path, **request))
            await self.world.resources.predictions.settled()
        assert _without_what_changes(answers[0]) == _without_what_changes(answers[1])
        return answers[0]


@pytest.fixture
async def both(world: World) -> AsyncIterator[Both]:
    # Each answer of a pair is a miss, or each is a hit: the cache is not what is compared.
    tenant = await world.tenant()
    await world.predict(tenant.live)
    async with client_of(world.app) as direct, client_of(world.app.behind) as behind:  # type: ignore[attr-defined]
        yield Both(world, tenant.live, direct, behind)


@pytest.mark.parametrize("name", BODIES)
async def test_both_routes_answer_a_body_alike(both: Both, name: str) -> None:
    answer = await both.post(json=BODIES[name], headers={"Cache-Control": "no-store"})
    assert answer.status_code in {200, 404, 422}


@pytest.mark.parametrize("name", RAW_BODIES)
async def test_both_routes_answer_raw_bytes_alike(both: Both, name: str) -> None:
    answer = await both.post(content=RAW_BODIES[name], headers={"Cache-Control": "no-store"})
    assert answer.status_code in {200, 400, 404, 413, 422}


@pytest.mark.parametrize("name", HEADERS)
async def test_both_routes_answer_headers_alike(both: Both, name: str) -> None:
    assert (await both.post(json=GOOD, headers=HEADERS[name])).status_code in {200, 400, 415, 422}


@pytest.mark.parametrize("text", ["5000", "600000", "0600000", pytest.param("0" * 5_000 + "9000", id="zeros")])
async def test_both_routes_take_a_deadline(both: Both, text: str) -> None:
    assert (await both.post(json=GOOD, headers={"X-Deadline-Ms": text})).status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "0000000000", "600001", "0600001", "000000001999999999", "-5", "1.5", "soon"),
        pytest.param("5\u00b2", id="squared"),
        pytest.param("9" * 5_000, id="nines"),
    ],
)
async def test_both_routes_hold_a_deadline_to_its_bound(both: Both, text: str) -> None:
    answer = await both.post(json=GOOD, headers={"X-Deadline-Ms": text})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/header/X-Deadline-Ms"]


@pytest.mark.parametrize("name", PATHS)
async def test_both_routes_answer_paths_alike(both: Both, name: str) -> None:
    body = GOOD if "models" not in PATHS[name] else {"inputs": IRIS}
    answer = await both.post(PATHS[name], json=body, headers={"Cache-Control": "no-store"})
    assert answer.status_code in {200, 400, 404, 405}


@pytest.mark.parametrize("name", ["model", "parameters", "inputs", "surprise"])
async def test_both_routes_read_the_body_of_one_models_path_alike(both: Both, name: str) -> None:
    body = {"inputs": IRIS, name: {"probabilities": False} if name == "parameters" else IRIS}
    answer = await both.post("/v1/models/iris/predict", json=body, headers={"Cache-Control": "no-store"})
    assert answer.status_code == (200 if name in {"parameters", "inputs"} else 422)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Basic abc"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Bearer fc_live_000000000000_" + "0" * 38},
        {"X-API-Key": "caf\u00e9"},
    ],
    ids=["none", "basic", "nonsense", "token", "mistyped", "not-ascii"],
)
async def test_both_routes_refuse_strangers_alike(both: Both, headers: dict[str, str]) -> None:
    answer = await both.post(content=b"{", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "invalid-credentials"


async def test_both_routes_know_every_kind_of_caller_alike(both: Both) -> None:
    world = both.world
    tenant = await world.tenant()
    login = await world.log_in(await world.member(tenant, Role.DEVELOPER))
    no_scope = await world.key(tenant, scopes=frozenset({Permission.MODELS_READ}))
    narrow = await world.key(tenant, models=("wine",))
    elsewhere = await world.key(tenant, allowed_cidrs=("203.0.113.0/24",))
    test = await world.key(tenant, Environment.TEST)
    expired = await world.key(tenant, expires_at=world.resources.clock.now() + timedelta(days=1))
    world.change("UPDATE api_keys SET expires_at = '2020-01-01 00:00:00' WHERE id = :id", id=expired.id)
    callers = {
        200: [login, test.headers, {"X-API-Key": test.secret}, {**test.headers, "X-API-Key": test.secret}],
        401: [expired.headers, {**test.headers, "X-API-Key": no_scope.secret}],
        403: [no_scope.headers, narrow.headers, elsewhere.headers],
    }
    for status, several in callers.items():
        for headers in several:
            answer = await both.post(json=GOOD, headers={**headers, "Cache-Control": "no-store"})
            assert answer.status_code == status, answer.text


async def test_both_routes_refuse_what_is_over_a_limit_alike(both: Both) -> None:
    tenant = await both.world.tenant()
    slow = await both.world.key(tenant, rate_per_minute=1)
    assert (await both.world.predict(slow)).status_code == 200
    answer = await both.post(json=GOOD, headers=slow.headers)
    assert answer.status_code == 429
    assert answer.headers["retry-after"].isdigit()
    spent = await both.world.key(tenant, monthly_quota=1)
    assert (await both.world.predict(spent)).status_code == 200
    assert (await both.post(json=GOOD, headers=spent.headers)).json()["code"] == "quota-exceeded"


async def test_an_answer_that_one_route_kept_is_repeated_by_the_other(both: Both) -> None:
    headers = {**both.key.headers, "Idempotency-Key": "order-1"}
    for first, second in ((both.direct, both.behind), (both.behind, both.direct)):
        headers["Idempotency-Key"] += "x"
        answered = await first.post("/v1/predict", json=GOOD, headers=headers)
        repeated = await second.post("/v1/predict", json=GOOD, headers=headers)
        assert repeated.content == answered.content
        assert repeated.headers["idempotency-replayed"] == "true"
        reused = await second.post("/v1/predict", json=BODIES["named"], headers=headers)
        assert reused.json()["code"] == "idempotency-key-reused"


async def ask(app: ASGIApp, scope: Scope, *chunks: bytes) -> list[Message]:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append(
        {"type": "http.request", "body": b"", "more_body": False} if chunks else {"type": "http.disconnect"}
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def scope_for(key: Key, **changes: Any) -> Scope:
    headers = [(name.lower().encode(), value.encode()) for name, value in key.headers.items()]
    path = "/v1/predict"
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
        "headers": headers,
        **changes,
    }


async def test_the_usual_request_never_reaches_fastapi_and_the_unusual_one_does(both: Both) -> None:
    app, body = both.world.app, json.dumps(GOOD).encode()
    usual = scope_for(both.key)
    twice = scope_for(both.key, headers=[*usual["headers"], (b"x-request-id", b"one"), (b"x-request-id", b"two")])
    for scope, reaches in ((usual, False), (twice, True), (scope_for(both.key, query_string=b"a=b"), True)):
        sent = await ask(app, scope, body[:10], body[10:])
        assert (sent[0]["status"], json.loads(sent[1]["body"])["model"]) == (200, "iris")
        assert ("route" in scope) is reaches
    await both.world.resources.predictions.settled()


async def test_over_https_either_route_says_that_it_stays_so(both: Both) -> None:
    body = json.dumps(GOOD).encode()
    for app in (both.world.app, both.world.app.behind):  # type: ignore[attr-defined]
        sent = await ask(app, scope_for(both.key, scheme="https"), body)
        assert b"strict-transport-security" in dict(sent[0]["headers"])
    await both.world.resources.predictions.settled()


async def test_a_caller_who_leaves_before_the_body_is_complete_is_not_answered(both: Both) -> None:
    assert await ask(both.world.app, scope_for(both.key)) == []


async def test_an_override_of_a_dependency_holds_for_predictions(both: Both) -> None:
    app, clock = both.world.app, FakeClock()
    clock.advance(-1_000_000_000)
    app.dependency_overrides[deps.get_clock] = lambda: clock
    try:
        before = await both.direct.post("/v1/predict", json=GOOD, headers=both.key.headers)
    finally:
        del app.dependency_overrides[deps.get_clock]
    assert before.status_code == 200
    await both.world.resources.predictions.settled()
    [event] = both.world.rows("SELECT occurred_at FROM usage_events WHERE event_id = :id", id=before.json()["id"])
    assert str(event[0])[:10] == clock.now().date().isoformat()


async def test_x3_a_direct_prediction_has_its_access_line(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="forecourt.access")
    log = both.world.app.front.access_log  # type: ignore[attr-defined]
    log.flush()
    caplog.clear()
    sent = {**both.key.headers, "X-Request-Id": "seen-1"}
    await both.direct.post("/v1/models/iris/predict", json={"inputs": IRIS}, headers=sent)
    await both.direct.post("/v1/predict", json=[], headers={**sent, "X-Request-Id": "seen-2"})
    log.flush()
    lines = [json.loads(line) for line in JsonFormatter().format(caplog.records[-1]).splitlines()]
    told = [(line["method"], line["path"], line["status"], line["request_id"], line["client"]) for line in lines]
    assert told == [
        ("POST", "/v1/models/iris/predict", 200, "seen-1", "127.0.0.1"),
        ("POST", "/v1/predict", 422, "seen-2", "127.0.0.1"),
    ]
    assert {(line["logger"], line["level"], line["message"]) for line in lines} == {
        ("forecourt.access", "info", "request")
    }
    assert all(line["duration_ms"] >= 0 and line["time"] for line in lines)
    await both.world.resources.predictions.settled()
