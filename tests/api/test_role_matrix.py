"""Who may call what: one table, held to the OpenAPI document, each pair of it really called, in both shapes.

Credentials are verified before a body is judged, so each pair is called with next to nothing: whoever may call is
told what is missing, and whoever may not is refused.
"""

import re
from typing import Any, NamedTuple

import pytest

from backend.api.router import PUBLIC
from backend.domain.scopes import (
    PLATFORM_ROLE_SCOPES,
    PLATFORM_SCOPES,
    ROLE_SCOPES,
    TENANT_SCOPES,
    PlatformRole,
    Role,
    Scope,
)
from tests.api.conftest import IRIS, PASSWORD, World
from tests.api.operators import platform_program

pytestmark = pytest.mark.anyio

# The scope that lets an API key or a service account in; then every role that gets in. "people" is nobody's program.
MATRIX = """
POST   /v1/predict                                      predict         owner admin developer
POST   /v1/models/{model}/predict                       predict         owner admin developer
GET    /v1/models                                       models:read     owner admin developer viewer operator
GET    /v1/models/{model}                               models:read     owner admin developer viewer operator
GET    /v1/models/{model}/versions/{version}            models:read     owner admin developer viewer operator
GET    /v1/limits                                       limits:read     owner admin developer billing viewer
PUT    /v1/limits                                       limits:write    owner admin

GET    /v1/usage/events                                 usage:read      owner admin developer billing viewer operator billing_reader
GET    /v1/usage/summary                                usage:read      owner admin developer billing viewer
GET    /v1/usage/periods                                usage:read      owner admin developer billing viewer operator billing_reader
GET    /v1/usage/periods/{period}                       usage:read      owner admin developer billing viewer operator billing_reader
GET    /v1/usage/periods/{period}/reconciliation        usage:read      owner admin developer billing viewer operator billing_reader
POST   /v1/usage/periods/{period}/close                 billing:close   operator billing_reader
GET    /v1/usage/statement                              usage:read      owner admin developer billing viewer operator billing_reader
GET    /v1/usage/export                                 usage:export    owner admin billing operator billing_reader
POST   /v1/usage/adjustments                            usage:adjust    operator
GET    /v1/usage/adjustments                            usage:read      owner admin developer billing viewer operator billing_reader

GET    /v1/api-keys                                     keys:read       owner admin developer viewer
GET    /v1/api-keys/{key_id}                            keys:read       owner admin developer viewer
POST   /v1/api-keys                                     keys:write      owner admin developer
PATCH  /v1/api-keys/{key_id}                            keys:write      owner admin developer
POST   /v1/api-keys/{key_id}/rotate                     keys:write      owner admin developer
POST   /v1/api-keys/{key_id}/revoke                     keys:write      owner admin developer

GET    /v1/audit-log                                    audit:read      owner admin
GET    /v1/audit-log/verify                             audit:read      owner admin
GET    /v1/audit-log/export                             audit:read      owner admin

GET    /v1/tenant                                       people          owner admin developer billing viewer
PATCH  /v1/tenant                                       tenant:write    owner admin
GET    /v1/members                                      members:read    owner admin viewer
PATCH  /v1/members/{member_id}                          members:write   owner admin
DELETE /v1/members/{member_id}                          members:write   owner admin
POST   /v1/invitations                                  members:write   owner admin
GET    /v1/invitations                                  members:write   owner admin
DELETE /v1/invitations/{invitation_id}                  members:write   owner admin
POST   /v1/service-accounts                             members:write   owner admin
GET    /v1/service-accounts                             members:write   owner admin
POST   /v1/service-accounts/{account_id}/rotate-secret  members:write   owner admin
DELETE /v1/service-accounts/{account_id}                members:write   owner admin

POST   /v1/admin/tenants                                admin           operator
GET    /v1/admin/tenants                                admin           operator
GET    /v1/admin/tenants/{tenant_id}                    admin           operator
POST   /v1/admin/tenants/{tenant_id}/suspend            admin           operator
POST   /v1/admin/tenants/{tenant_id}/resume             admin           operator
GET    /v1/admin/tenants/{tenant_id}/biller-customer    admin           operator
PUT    /v1/admin/tenants/{tenant_id}/biller-customer    admin           operator
GET    /v1/admin/tenants/{tenant_id}/subscription       admin           operator
PUT    /v1/admin/tenants/{tenant_id}/subscription       admin           operator
POST   /v1/admin/plans                                  admin           operator
GET    /v1/admin/plans                                  admin           operator
GET    /v1/admin/plans/{plan_id}                        admin           operator
GET    /v1/admin/models/{model}/aliases                 admin           operator
PUT    /v1/admin/models/{model}/aliases/{alias}         admin           operator
DELETE /v1/admin/models/{model}/aliases/{alias}         admin           operator
POST   /v1/admin/models/{model}/versions/{version}/load    admin        operator
POST   /v1/admin/models/{model}/versions/{version}/unload  admin        operator

POST   /v1/webhooks                                     tenant:write    owner admin
GET    /v1/webhooks                                     usage:read      owner admin developer billing viewer
GET    /v1/webhooks/{webhook_id}                        usage:read      owner admin developer billing viewer
PATCH  /v1/webhooks/{webhook_id}                        tenant:write    owner admin
DELETE /v1/webhooks/{webhook_id}                        tenant:write    owner admin
POST   /v1/webhooks/{webhook_id}/rotate-secret          tenant:write    owner admin
POST   /v1/webhooks/{webhook_id}/test                   tenant:write    owner admin
GET    /v1/webhooks/{webhook_id}/deliveries             usage:read      owner admin developer billing viewer
POST   /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver tenant:write owner admin

GET    /v1/me                                           people          owner admin developer billing viewer operator billing_reader
POST   /v1/me/password                                  people          owner admin developer billing viewer operator billing_reader
GET    /v1/me/sessions                                  people          owner admin developer billing viewer operator billing_reader
DELETE /v1/me/sessions/{session_id}                     people          owner admin developer billing viewer operator billing_reader

POST   /v1/auth/token                                   everybody
POST   /v1/auth/revoke                                  everybody
POST   /v1/auth/register                                everybody
POST   /v1/auth/confirm                                 everybody
POST   /v1/auth/forgot                                  everybody
POST   /v1/auth/reset                                   everybody
POST   /v1/invitations/accept                           everybody
GET    /.well-known/jwks.json                           everybody
GET    /.well-known/oauth-authorization-server          everybody
GET    /livez                                           everybody
GET    /readyz                                          everybody
"""  # noqa: E501  # one line a route

BOOKS = (
    "/v1/usage/events",
    "/v1/usage/periods",
    "/v1/usage/periods/{period}",
    "/v1/usage/periods/{period}/reconciliation",
    "/v1/usage/statement",
    "/v1/usage/export",
    "/v1/usage/adjustments",
)
EVERYBODY, PEOPLE = "everybody", "people"
ROLES = {*(role.value for role in Role), *(role.value for role in PlatformRole)}


class Row(NamedTuple):
    """One route."""

    method: str
    path: str
    scope: str
    roles: frozenset[str]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


ROWS = [
    Row(method, path, scope, frozenset(roles))
    for method, path, scope, *roles in (line.split() for line in MATRIX.splitlines() if line)
]
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

_callers: dict[str, dict[str, dict[str, str]]] = {}


async def callers_of(world: World) -> dict[str, dict[str, str]]:
    """Return the headers of one caller of each kind, made once for each application."""
    if world.shape not in _callers:
        tenant = await world.tenant()
        found = {role.value: await world.log_in(await world.member(tenant, role)) for role in Role}
        for role in PlatformRole:
            email = f"{role}@{tenant.slug}.example"
            async with world._unit() as (tenants, _):
                await tenants.add_user(email=email, password=PASSWORD, platform_role=role)
            found[role.value] = await world.log_in(email)
            found[f"program as {role}"] = await platform_program(world, role)
        owner = found[Role.OWNER]
        for scope in sorted(TENANT_SCOPES):
            key = await world.key(tenant, scopes=frozenset({scope}))
            found[f"key with {scope}"] = key.headers
            found[f"program with {scope}"] = await _program(world, owner, scope)
        _callers[world.shape] = found
    return _callers[world.shape]


async def _program(world: World, owner: dict[str, str], scope: Scope) -> dict[str, str]:
    body = {"name": scope, "scopes": [scope]}
    account = (await world.client.post("/v1/service-accounts", json=body, headers=owner)).json()
    form = {"client_id": account["client_id"], "client_secret": account["client_secret"]}
    answer = await world.token(grant_type="client_credentials", **form)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def may_call(row: Row, caller: str) -> bool:
    """Whether the table lets a caller in."""
    if row.scope == EVERYBODY:
        return True
    if caller.startswith("program as "):
        return row.scope != PEOPLE and caller.removeprefix("program as ") in row.roles
    return caller in row.roles or caller.endswith(f" with {row.scope}")


async def call(world: World, row: Row, headers: dict[str, str]) -> tuple[int, str]:
    path = row.path.replace("{model}", "iris").replace("{version}", "1")
    path = "/".join("none_such" if part.startswith("{") else part for part in path.split("/"))
    body: dict[str, Any] | None = None if row.method in {"GET", "DELETE"} else {}
    if row.scope == Scope.PREDICT:
        # The one body that is read before the scope is asked for.
        body = {"inputs": IRIS} | ({} if "{model}" in row.path else {"model": "iris"})
    answer = await world.client.request(row.method, path, json=body, headers=headers)
    return answer.status_code, answer.text


@each_row
async def test_a7_who_may_call_gets_in_and_nobody_else(world: World, row: Row) -> None:
    for caller, headers in (await callers_of(world)).items():
        status, text = await call(world, row, headers)
        if may_call(row, caller):
            assert status not in {401, 403}, f"{caller} is refused: {text}"
            assert status < 500, text
        else:
            assert status == 403, f"{caller} gets {status}: {text}"


@each_row
async def test_a7_who_shows_nothing_gets_in_only_where_everybody_does(world: World, row: Row) -> None:
    status, _ = await call(world, row, {})
    assert (status == 401) is (row.scope != EVERYBODY)


async def test_a7_every_route_stands_in_the_table_and_nothing_else_does(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    routes = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        # A model's own page is the generic route with its types.
        if not re.fullmatch(r"/v1/models/[^/{]+/predict", path)
    }
    assert routes - {row.name for row in ROWS} == set(), "routes that nobody was declared for"
    assert {row.name for row in ROWS} - routes == set(), "lines about no route"


async def test_the_document_says_of_the_same_routes_that_they_need_a_credential(world: World) -> None:
    document: dict[str, Any] = (await world.client.get("/openapi.json")).json()
    for row in ROWS:
        operation = document["paths"][row.path][row.method.lower()]
        assert ("security" in operation) is (row.scope != EVERYBODY), row.name
        assert (row.path in PUBLIC) is (row.scope == EVERYBODY), row.name


def test_the_table_says_what_the_roles_scopes_say() -> None:
    for row in ROWS:
        assert row.roles <= ROLES, row.name
        if row.scope in {EVERYBODY, PEOPLE}:
            continue
        if row.scope in PLATFORM_SCOPES:
            assert row.roles == {role.value for role, held in PLATFORM_ROLE_SCOPES.items() if row.scope in held}, (
                row.name
            )
            continue
        holders = {role.value for role, scopes in ROLE_SCOPES.items() if row.scope in scopes}
        assert row.roles & {role.value for role in Role} == holders, row.name


def test_platform_roles_get_in_only_where_the_table_says_so() -> None:
    for role in PlatformRole:
        routes = {row.path for row in ROWS if role.value in row.roles and row.scope != PEOPLE}
        expected = set(BOOKS) if Scope.USAGE_ALL in PLATFORM_ROLE_SCOPES[role] else set()
        if Scope.MODELS_READ in PLATFORM_ROLE_SCOPES[role]:
            expected |= {"/v1/models", "/v1/models/{model}", "/v1/models/{model}/versions/{version}"}
        expected |= {row.path for row in ROWS if row.scope in PLATFORM_ROLE_SCOPES[role] & PLATFORM_SCOPES}
        assert routes == expected
