"""The whole surface, fuzzed from its own OpenAPI document, in both shapes and by three callers.

Whatever is sent, right or wrong: no 500, no status and no content type that the document does not declare, and no body
that is not as it says. Cases are derived from fixed seeds: a run repeats itself, and a failure stays until it is fixed.
The application runs on a loop of its own, since the generator is synchronous.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backend.domain.plans import seed_plans
from backend.domain.scopes import TENANT_SCOPES, Role
from tests.api.conftest import World, embedded_settings, fresh_database, running
from tests.api.operators import platform_program

EXAMPLES = 6
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# The failure that a caller may bring about: a deadline nobody could meet.
MAY_FAIL = {"deadline-exceeded"}


@dataclass(frozen=True, slots=True)
class Target:
    """A running application, its document, ids that exist in it, and the headers of each caller."""

    portal: BlockingPortal
    world: World
    document: dict[str, Any]
    ids: dict[str, str]
    callers: dict[str, dict[str, str]]

    def send(self, request: dict[str, Any]) -> httpx.Response:
        return self.portal.call(lambda: self.world.client.request(**request))


@contextmanager
def target(settings_of_shape: Any, shape: str) -> Iterator[Target]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running(settings_of_shape, shape)) as world,
    ):
        yield portal.call(furnished, portal, world)


async def furnished(portal: BlockingPortal, world: World) -> Target:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    key = await world.key(tenant, scopes=TENANT_SCOPES)
    await world.member(tenant, Role.VIEWER)

    async def first(path: str) -> str:
        data = (await world.client.get(path, headers=owner)).json()["data"]
        return str(data[-1]["id"])

    async def made(path: str, body: dict[str, Any]) -> str:
        return str((await world.client.post(path, json=body, headers=owner)).json()["id"])

    ids = {
        "key_id": tenant.test.id,
        "model": "iris",
        "version": "1",
        "alias": "stable",
        "member_id": await first("/v1/members"),
        "session_id": await first("/v1/me/sessions"),
        "invitation_id": await made("/v1/invitations", {"email": "guest@fuzz.example", "role": "viewer"}),
        "account_id": await made("/v1/service-accounts", {"name": "job", "scopes": ["usage:read"]}),
        # Not the callers' own: the operator's cases suspend it.
        "tenant_id": (await world.tenant()).id,
        "plan_id": seed_plans()[0].id,
    }
    # Who asks to end a session must not end the caller's own.
    other = await world.log_in(tenant.owner_email)
    operator = await platform_program(world)
    callers = {"nobody": {}, "owner": other, "key": {"X-API-Key": key.secret}, "operator": operator}
    document = (await world.client.get("/openapi.json")).json()
    return Target(portal, world, document, ids, callers)


@pytest.fixture(scope="module")
def embedded_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(embedded_settings(tmp_path_factory.mktemp("fuzz")), "fuzz-embedded") as found:
        yield found


@pytest.fixture(scope="module")
def server_target(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    url = fresh_database(postgres_url, "fuzz")
    options = {"database_url": url, "redis_url": redis_url, "redis_timeout_s": 5.0, "database_timeout_s": 20.0}
    with target(embedded_settings(tmp_path_factory.mktemp("fuzz"), **options), "fuzz-server") as found:
        yield found


@pytest.fixture(params=["embedded", "server"])
def fuzzed(request: pytest.FixtureRequest) -> Target:
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.mark.parametrize("caller", ["nobody", "owner", "key", "operator"])
def test_nothing_that_is_sent_gets_an_undeclared_answer(fuzzed: Target, caller: str) -> None:
    schema = schemathesis.openapi.from_dict(fuzzed.document)
    headers = fuzzed.callers[caller]
    problems = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result.err()
        operation = result.ok()
        try:
            fuzz(fuzzed, operation, headers)
        except (AssertionError, FailureGroup) as found:
            reasons = found.exceptions if isinstance(found, FailureGroup) else (found,)
            problems.append((operation.label, [str(reason) for reason in reasons]))
    assert problems == []


def fuzz(fuzzed: Target, operation: Any, headers: dict[str, str]) -> None:
    """Send right and wrong cases of one operation, with ids that exist and with any others."""
    known = {name: fuzzed.ids[name] for name in parameters_of(operation.path)}
    strategies = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
    if known:
        strategies.append(operation.as_strategy(generation_mode=GenerationMode.POSITIVE, path_parameters=known))
    if known or operation.body or operation.query or operation.headers:
        strategies.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(strategies))
    def each(case: Any) -> None:
        request = sendable(case, headers)
        if request is not None:
            response = fuzzed.send(request)
            case.validate_response(response, checks=CHECKS)
            assert response.status_code < 500 or response.json()["code"] in MAY_FAIL, response.text

    each()


def parameters_of(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def sendable(case: Any, headers: dict[str, str]) -> dict[str, Any] | None:
    """Return a case as our client sends it; ``None`` for what no client can put on a wire."""
    request = case.as_transport_kwargs(base_url="http://testserver")
    request["headers"] = {**dict(request.get("headers") or {}), **headers}
    body = {name: request[name] for name in ("json", "data", "files") if request.get(name) is not None}
    try:
        built = httpx.Request(
            request["method"],
            request["url"],
            params=request.get("params"),
            headers=request["headers"],
            **content_of(body),
        )
    except (UnicodeEncodeError, httpx.InvalidURL, TypeError, ValueError):
        return None
    return {
        "method": built.method,
        "url": built.url,
        "headers": built.headers,
        "content": built.read(),
    }


def content_of(body: dict[str, Any]) -> dict[str, Any]:
    data = body.get("data")
    if isinstance(data, str | bytes):
        return {"content": data}
    return body
