"""Refusals over HTTP: one form for all of them, and nothing in them that helps whoever should not be helped."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient

from backend.api import deps
from backend.api.errors import status_of
from backend.api.refusals import refusals
from backend.domain import errors
from tests.api.conftest import IRIS, World, embedded_settings, running
from tests.api.test_predictions import problem
from tests.routes import served_routes

pytestmark = pytest.mark.anyio

SECRET = "the seventh elephant"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v2/predict",
        "/v1/predict/",
        "/v1//predict",
        "/V1/predict",
        "/admin",
        "/metrics",
        "/.env",
        "/.git/config",
        "/docs/",
        "/redoc",
        "/v1/models/iris/predict/x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/api-keys/a/b/c",
        "/" + "a" * 5000,
        "/\u00e9\u4e16",
    ],
)
async def test_404_an_unknown_path_is_a_problem_document(world: World, path: str) -> None:
    answer = await world.client.get(path)
    assert problem(answer) == (404, "not-found")
    assert answer.headers["cache-control"] == "no-store"
    assert path not in answer.json()["detail"] or path == "/"


async def test_x6_metrics_are_not_on_the_public_port(world: World) -> None:
    tenant = await world.tenant()
    assert problem(await world.client.get("/metrics", headers=tenant.live.headers)) == (404, "not-found")


async def test_405_any_other_method_on_every_route(world: World) -> None:
    allowed: dict[str, set[str]] = {}
    for route in served_routes(world.app):
        allowed.setdefault(route.path, set()).add(route.method)
    plain = {path: methods for path, methods in allowed.items() if "{" not in path}
    assert len(plain) > 10
    for path, methods in plain.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"} - methods:
            answer = await world.client.request(method, path)
            if answer.status_code == 401:
                continue  # To a route with a name in it, this path is one of those names.
            assert answer.status_code == 405, (method, path)
            named = set(re.split(r",\s*", answer.headers["allow"]))
            assert methods <= named, (method, path)
            assert method not in named, (method, path)
            if method != "HEAD":
                assert problem(answer) == (405, "method-not-allowed"), (method, path)


async def test_405_names_the_methods_of_every_route_with_the_path(world: World) -> None:
    for path, methods in {
        "/v1/limits": "GET, PUT",
        "/v1/tenant": "GET, PATCH",
        "/v1/api-keys": "GET, POST",
        "/v1/api-keys/key_x": "GET, PATCH",
        "/v1/models/iris/predict": "POST",
        "/readyz": "GET",
    }.items():
        assert (await world.client.request("TRACE", path)).headers["allow"] == methods, path


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ([], "", "must be an object"),
        ({"rate_limit": 5}, "/rate_limit", "must be an object"),
        ({"models": {"the secret name": {"per_minute": 1}}}, "/models", "holds a name that is not valid"),
        ({"key_id": "key_x", "models": {}}, "", "limits for single models are the tenant's, not a key's"),
    ],
    ids=["no-object", "no-object-inside", "bad-name", "own-validator"],
)
async def test_422_says_what_is_wrong_in_words_for_callers(world: World, body: Any, pointer: str, detail: str) -> None:
    token = await world.log_in((await world.tenant()).owner_email)
    answer = await world.client.put("/v1/limits", json=body, headers=token)
    assert problem(answer) == (422, "validation-failed")
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": detail}]


async def test_422_a_prediction_that_is_no_object_names_no_class(world: World) -> None:
    tenant = await world.tenant()
    answer = await world.client.post("/v1/predict", json=[1], headers=tenant.live.headers)
    assert answer.json()["errors"] == [{"pointer": "", "detail": "must be an object"}]


async def test_every_answer_carries_its_request_id_and_the_security_headers(world: World) -> None:
    tenant = await world.tenant()
    answers = [
        await world.client.get("/livez"),
        await world.client.get("/nothing"),
        await world.client.get("/v1/models"),
        await world.client.get("/v1/models?key=x"),
        await world.client.get("/openapi.json"),
        await world.client.get("/docs"),
        await world.client.options("/v1/predict"),
        await world.predict(tenant.live),
        await world.predict(tenant.live, [["x"]]),
        await world.client.post("/v1/predict", content=b"x", headers={"Content-Encoding": "gzip"}),
    ]
    for answer in answers:
        assert re.fullmatch(r"req_[0-9A-Z]{26}", answer.headers["x-request-id"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers
        assert "x-powered-by" not in answer.headers
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


async def test_x5_strict_transport_security_is_said_behind_tls_only(world: World) -> None:
    assert "strict-transport-security" not in (await world.client.get("/livez")).headers
    transport = ASGITransport(app=world.app)
    async with AsyncClient(transport=transport, base_url="https://testserver") as client:
        for path in ("/livez", "/nothing", "/docs"):
            header = (await client.get(path)).headers["strict-transport-security"]
            assert int(re.findall(r"max-age=(\d+)", header)[0]) >= 31_536_000


@pytest.mark.parametrize(
    "request_id", ["", "x" * 65, "a b", "a\tb", "<script>", "a;b", "a\u00e9", "../..", "a,b", '"a"', "a:b"]
)
async def test_x3_an_unsafe_request_id_is_replaced(world: World, request_id: str) -> None:
    answer = await world.client.get("/nothing", headers={b"X-Request-Id": request_id.encode()})
    assert re.fullmatch(r"req_[0-9A-Z]{26}", answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_safe_request_id_stands_in_the_problem_and_its_instance(world: World) -> None:
    answer = await world.client.get("/nothing", headers={"X-Request-Id": "Order-7_b"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "Order-7_b"
    assert answer.json()["instance"].endswith("Order-7_b")


# X4: what nobody caught


class Broken:
    """A port of which every method fails, saying more than it should."""

    def __getattr__(self, name: str) -> Any:
        def fail(*arguments: Any, **options: Any) -> Any:
            raise RuntimeError(f"{name} failed: {SECRET} at postgresql://app:hunter2@db/forecourt")

        return fail


@pytest.fixture
async def broken(world: World) -> AsyncIterator[Callable[[Callable[..., Any]], None]]:
    """Breaks what a provider gives."""
    overrides = world.app.dependency_overrides

    def break_it(provider: Callable[..., Any]) -> None:
        overrides[provider] = Broken

    yield break_it
    overrides.clear()


async def test_x4_500_carries_a_request_id_and_nothing_of_the_cause(
    world: World, broken: Callable[[Callable[..., Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    tenant = await world.tenant()
    requests: list[tuple[Callable[..., Any], str, str, Any]] = [
        (deps.get_usage_reader, "GET", "/v1/usage/summary", None),
        (deps.get_catalog, "GET", "/v1/models", None),
        (deps.get_catalog, "POST", "/v1/predict", {"model": "iris", "inputs": IRIS}),
        (deps.get_ledger, "POST", "/v1/predict", {"model": "iris", "inputs": IRIS}),
        (deps.get_token_issuer, "GET", "/.well-known/jwks.json", None),
    ]
    for provider, method, path, body in requests:
        world.app.dependency_overrides.clear()
        broken(provider)
        caplog.clear()
        answer = await world.client.request(method, path, json=body, headers=tenant.live.headers)
        assert problem(answer) == (500, "internal-error"), path
        assert answer.json().keys() == {"type", "title", "status", "detail", "instance", "code", "request_id"}
        for word in (SECRET, "RuntimeError", "Traceback", "hunter2", "failed", ".py", "postgresql"):
            assert word not in answer.text, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        [record] = [each for each in caplog.records if each.name == "forecourt.errors"]
        assert record.__dict__["request_id"] == answer.headers["x-request-id"], "so that an operator can find it"
        assert record.exc_info


async def test_x4_a_failing_request_leaves_the_next_one_alone(
    world: World, broken: Callable[[Callable[..., Any]], None]
) -> None:
    tenant = await world.tenant()
    broken(deps.get_ledger)
    assert (await world.predict(tenant.live)).status_code == 500
    world.app.dependency_overrides.clear()
    assert (await world.predict(tenant.live)).status_code == 200
    assert len(await world.events(tenant)) == 1


async def test_x3_what_callers_send_reaches_the_access_log_escaped(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="forecourt.access")
    await world.client.get("/a%0d%0aforged%20line", headers={"X-Request-Id": "x", "User-Agent": "a\tb"})
    [record] = [each for each in caplog.records if each.name == "forecourt.access"]
    assert record.getMessage() == "request"
    assert record.__dict__["path"] == "/a\r\nforged line", "escaped by the formatter, whose tests are in test_logs.py"
    assert {"method", "path", "status", "duration_ms", "request_id", "client"} <= record.__dict__.keys()
    assert (record.__dict__["method"], record.__dict__["status"]) == ("GET", 404)


# A slow or broken body


@pytest.fixture(scope="module")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """An application that waits for a body no longer than it has to be."""
    settings = embedded_settings(tmp_path_factory.mktemp("impatient"), body_timeout_s=0.2)
    async with running(settings, "impatient") as world:
        yield world


async def trickle(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body of which the rest never comes."""
    for piece in pieces:
        yield piece
    await asyncio.Event().wait()


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/models/iris/predict", "/v1/api-keys", "/v1/auth/token"])
async def test_408_a_body_that_does_not_come(impatient: World, path: str) -> None:
    tenant = await impatient.tenant()
    kind = "application/x-www-form-urlencoded" if "auth" in path else "application/json"
    headers = {**tenant.live.headers, "Content-Type": kind}
    async with asyncio.timeout(10):
        for pieces in ((), (b'{"model": "iris", ',)):
            answer = await impatient.client.post(path, content=trickle(*pieces), headers=headers)
            assert problem(answer) == (408, "request-timeout")
    assert (await impatient.predict(tenant.live)).status_code == 200


# The table behind it


def every_refusal(base: type[errors.ForecourtError] = errors.ForecourtError) -> set[type[errors.ForecourtError]]:
    return {base}.union(*(every_refusal(child) for child in base.__subclasses__()))


def test_every_refusal_has_a_code_of_its_own_and_a_status_of_its_kind() -> None:
    for refusal in every_refusal():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", refusal.code), refusal
        assert refusal.title, refusal
        assert 400 <= status_of(refusal) <= 599, refusal


def test_a_route_describes_the_refusals_that_it_was_given() -> None:
    described = refusals(errors.KeyLimitReached)
    assert "`key-limit-reached`" in described[409]["description"]
    assert 401 in described
    assert 401 not in refusals(public=True)
