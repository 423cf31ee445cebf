"""The whole surface, fuzzed from its own OpenAPI document, in both shapes and by three callers.

Whatever is sent, right or wrong: no 500, no status and no content type that the document does not declare, and no body
that is not as it says. Cases are derived from fixed seeds: a run repeats itself, and a failure stays until it is fixed.
The application runs on a loop of its own, since the generator is synchronous.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
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
from tests.api.conftest import DEMO_MODELS, World, embedded_settings, own_models, running, server_stores
from tests.api.operators import platform_program

# A search that is to take minutes sets these higher.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
LIVES, STEPS = int(os.environ.get("FUZZ_LIVES", "6")), 15
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# The failure that a caller may bring about: a deadline nobody could meet.
MAY_FAIL = {"deadline-exceeded"}
EXISTING = "existing-%s-here"
"""Stands in a case's path for an id that exists: one application's ids are not another's."""


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

    webhook = await made("/v1/webhooks", {"url": "http://127.0.0.1:9/"})
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
        "period": "2026-01",
        "webhook_id": webhook,
        "delivery_id": await made(f"/v1/webhooks/{webhook}/test", {}),
    }
    # Who asks to end a session must not end the caller's own.
    other = await world.log_in(tenant.owner_email)
    operator = await platform_program(world)
    callers = {"nobody": {}, "owner": other, "key": {"X-API-Key": key.secret}, "operator": operator}
    document = (await world.client.get("/openapi.json")).json()
    return Target(portal, world, document, ids, callers)


@pytest.fixture(scope="module")
def embedded_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    with target(embedded_settings(folder, models=own_models(folder, DEMO_MODELS)), "fuzz-embedded") as found:
        yield found


@pytest.fixture(scope="module")
def server_target(postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("fuzz")
    settings_of_shape = embedded_settings(
        folder,
        models=own_models(folder, DEMO_MODELS),
        **server_stores(postgres_url, redis_url, "fuzz"),
    )
    with target(settings_of_shape, "fuzz-server") as found:
        yield found


@pytest.fixture(params=["embedded", "server"])
def fuzzed(request: pytest.FixtureRequest) -> Target:
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.mark.parametrize("caller", ["nobody", "owner", "key", "operator"])
def test_nothing_that_is_sent_gets_an_undeclared_answer(fuzzed: Target, caller: str) -> None:
    problems = []
    for label, cases in cases_of_all_operations(json.dumps(fuzzed.document)):
        try:
            for case in cases:
                hold_to_the_document(fuzzed, case, fuzzed.callers[caller])
        except (AssertionError, FailureGroup) as found:
            reasons = found.exceptions if isinstance(found, FailureGroup) else (found,)
            problems.append((label, [str(reason) for reason in reasons]))
    assert problems == []


@cache
def cases_of_all_operations(document: str) -> list[tuple[str, list[Any]]]:
    """Make right and wrong cases of each operation, with ids that exist and with any others.

    They are kept: with fixed seeds every caller is sent the same, and to make them takes longer than to send them.
    """
    made = []
    for result in schemathesis.openapi.from_dict(json.loads(document)).get_all_operations():
        assert isinstance(result, Ok), result.err()
        operation = result.ok()
        made.append((operation.label, cases_of(operation)))
    return made


def cases_of(operation: Any) -> list[Any]:
    known = {name: EXISTING % name for name in parameters_of(operation.path)}
    strategies = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
    if known:
        strategies.append(operation.as_strategy(generation_mode=GenerationMode.POSITIVE, path_parameters=known))
    if known or operation.body or operation.query or operation.headers:
        strategies.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    cases = []

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
        cases.append(case)

    each()
    return cases


def hold_to_the_document(fuzzed: Target, case: Any, headers: dict[str, str]) -> None:
    """Send a case, and check that its answer is as the document says."""
    request = sendable(case, headers, fuzzed.ids)
    if request is not None:
        response = fuzzed.send(request)
        case.validate_response(response, checks=CHECKS)
        assert response.status_code < 500 or response.json()["code"] in MAY_FAIL, response.text


def parameters_of(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def sendable(case: Any, headers: dict[str, str], ids: Mapping[str, str]) -> dict[str, Any] | None:
    """Return a case as our client sends it; ``None`` for what no client can put on a wire."""
    request = case.as_transport_kwargs(base_url="http://testserver")
    for name, value in ids.items():
        request["url"] = request["url"].replace(EXISTING % name, value)
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


class Life(RuleBasedStateMachine):
    """What is made is read, changed, renewed and ended, in any order, with whatever bodies the document allows.

    Besides the answers' form it knows what has to hold: who was ended is refused at once and for good.
    """

    keys: Bundle[tuple[str, str]] = Bundle("keys")
    accounts: Bundle[tuple[str, str]] = Bundle("accounts")
    invitations: Bundle[str] = Bundle("invitations")
    logins: Bundle[tuple[str, str]] = Bundle("logins")

    def __init__(self, fuzzed: Target, schema: Any) -> None:
        super().__init__()
        self._fuzzed = fuzzed
        self._schema = schema
        self._tenant = fuzzed.portal.call(fuzzed.world.tenant)
        self._owner = fuzzed.portal.call(fuzzed.world.log_in, self._tenant.owner_email)
        self._revoked: set[str] = set()
        self._over: list[dict[str, str]] = []

    def _ask(self, data: st.DataObject, method: str, path: str, **ids: str) -> Any:
        """Send what the document allows for a route; hold the answer to it."""
        operation = self._schema[path][method]
        options = {"path_parameters": ids} if ids else {}
        case = data.draw(operation.as_strategy(generation_mode=GenerationMode.POSITIVE, **options))
        request = sendable(case, self._owner, self._fuzzed.ids)
        assume(request is not None)
        assert request is not None
        # A second credential would be refused, and is the other test's to send.
        request["headers"].pop("x-api-key", None)
        response = self._fuzzed.send(request)
        case.validate_response(response, checks=CHECKS)
        assert response.status_code < 500, response.text
        return response

    def _is_in(self, headers: dict[str, str]) -> bool:
        response = self._fuzzed.send({"method": "GET", "url": "/v1/models", "headers": headers})
        assert response.status_code in {200, 401, 403}, response.text
        return bool(response.status_code != 401)

    @rule(target=keys, data=st.data())
    def make_key(self, data: st.DataObject) -> Any:
        response = self._ask(data, "POST", "/v1/api-keys")
        if response.status_code != 201:
            return multiple()
        body = response.json()
        assert body["generation"] == 1
        return body["id"], body["secret"]

    @rule(key=keys, data=st.data())
    def read_key(self, key: tuple[str, str], data: st.DataObject) -> None:
        response = self._ask(data, "GET", "/v1/api-keys/{key_id}", key_id=key[0])
        assert response.status_code == 200
        assert key[1] not in response.text
        assert (response.json()["status"] == "revoked") is (key[0] in self._revoked)

    @rule(key=keys, data=st.data())
    def change_key(self, key: tuple[str, str], data: st.DataObject) -> None:
        response = self._ask(data, "PATCH", "/v1/api-keys/{key_id}", key_id=key[0])
        if key[0] in self._revoked:
            assert response.status_code != 200

    @rule(target=keys, key=keys, data=st.data())
    def rotate_key(self, key: tuple[str, str], data: st.DataObject) -> Any:
        response = self._ask(data, "POST", "/v1/api-keys/{key_id}/rotate", key_id=key[0])
        if response.status_code != 200:
            return multiple()
        assert key[0] not in self._revoked
        assert response.json()["secret"] != key[1]
        return key[0], response.json()["secret"]

    @rule(key=keys, data=st.data())
    def revoke_key(self, key: tuple[str, str], data: st.DataObject) -> None:
        response = self._ask(data, "POST", "/v1/api-keys/{key_id}/revoke", key_id=key[0])
        assert response.json()["status"] == "revoked"
        self._revoked.add(key[0])
        self._over.append({"X-API-Key": key[1]})

    @rule(target=accounts, data=st.data())
    def make_account(self, data: st.DataObject) -> Any:
        response = self._ask(data, "POST", "/v1/service-accounts")
        if response.status_code != 201:
            return multiple()
        return response.json()["id"], response.json()["client_secret"]

    @rule(account=accounts, data=st.data(), ending=st.sampled_from(["rotate-secret", "delete", "revoke"]))
    def end_what_an_account_signed_in_with(self, account: tuple[str, str], data: st.DataObject, ending: str) -> None:
        form = {"grant_type": "client_credentials", "client_id": account[0], "client_secret": account[1]}
        granted = self._fuzzed.send({"method": "POST", "url": "/v1/auth/token", "data": form})
        if granted.status_code != 200:
            return
        token = granted.json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        assert self._is_in(headers)
        if ending == "revoke":
            self._fuzzed.send({"method": "POST", "url": "/v1/auth/revoke", "data": {"token": token}})
        elif ending == "delete":
            self._ask(data, "DELETE", "/v1/service-accounts/{account_id}", account_id=account[0])
        else:
            self._ask(data, "POST", "/v1/service-accounts/{account_id}/rotate-secret", account_id=account[0])
        self._over.append(headers)

    @rule(target=invitations, data=st.data())
    def invite(self, data: st.DataObject) -> Any:
        response = self._ask(data, "POST", "/v1/invitations")
        return response.json()["id"] if response.status_code == 201 else multiple()

    @rule(invitation=consumes(invitations), data=st.data())
    def take_an_invitation_back(self, invitation: str, data: st.DataObject) -> None:
        statuses = [
            self._ask(data, "DELETE", "/v1/invitations/{invitation_id}", invitation_id=invitation).status_code
            for _ in range(2)
        ]
        assert statuses[0] in {204, 404}, "a newer one for the same address took its place"
        assert statuses[1] == 404

    @rule(target=logins)
    def log_in(self) -> tuple[str, str]:
        world = self._fuzzed.world
        headers = self._fuzzed.portal.call(world.log_in, self._tenant.owner_email)
        listed = self._fuzzed.send({"method": "GET", "url": "/v1/me/sessions", "headers": headers}).json()["data"]
        return next(each["id"] for each in listed if each["current"]), headers["Authorization"]

    @rule(login=consumes(logins), data=st.data())
    def end_login(self, login: tuple[str, str], data: st.DataObject) -> None:
        response = self._ask(data, "DELETE", "/v1/me/sessions/{session_id}", session_id=login[0])
        assert response.status_code == 204
        self._over.append({"Authorization": login[1]})

    @invariant()
    def who_was_ended_stays_out(self) -> None:
        assert not [headers for headers in self._over[-3:] if self._is_in(headers)]

    def teardown(self) -> None:
        assert self._is_in(self._owner), "nobody ended the login that all this was done with"


def test_what_is_made_changed_and_ended_in_any_order_stays_consistent(fuzzed: Target) -> None:
    schema = schemathesis.openapi.from_dict(fuzzed.document)
    run_state_machine_as_test(
        lambda: Life(fuzzed, schema),  # type: ignore[arg-type]  # whatever makes one will do
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
