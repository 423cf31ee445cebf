"""The audit log over HTTP, and that every mutation leaves exactly one record in it, in both shapes."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from httpx import Response

from backend.domain.audit import PLATFORM_CHAIN
from backend.domain.ids import TenantId
from backend.domain.scopes import Role
from tests.api.conftest import PASSWORD, TenantUnderTest, World
from tests.api.mailbox import letters_to
from tests.api.test_predictions import problem
from tests.api.trails import trail

pytestmark = pytest.mark.anyio

Headers = dict[str, str]
NEW_PASSWORD = "nine green tortoises sing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A tenant and its owner, signed in."""

    world: World
    tenant: TenantUnderTest
    owner: Headers

    async def send(self, method: str, path: str, body: Any = None, headers: Headers | None = None) -> Response:
        return await self.world.client.request(method, path, json=body, headers=headers or self.owner)

    async def member(self, role: Role = Role.VIEWER) -> str:
        """Seat somebody; return the membership's id."""
        email = await self.world.member(self.tenant, role)
        members = (await self.send("GET", "/v1/members?limit=100")).json()["data"]
        return str(next(member["id"] for member in members if member["email"] == email))

    async def made(self, path: str, body: Any) -> str:
        """Make something; return its id."""
        answer = await self.send("POST", path, body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def invited(self) -> str:
        """Invite somebody; return the token."""
        email = f"guest@{self.tenant.slug}.example"
        await self.made("/v1/invitations", {"email": email, "role": "viewer"})
        return (await letters_to(self.world, email))[-1].token

    async def forgotten(self) -> str:
        """Forget the owner's password; return the token."""
        await self.send("POST", "/v1/auth/forgot", {"email": self.tenant.owner_email})
        return (await letters_to(self.world, self.tenant.owner_email))[-1].token


@pytest.fixture
async def scene(world: World) -> Scene:
    tenant = await world.tenant()
    return Scene(world=world, tenant=tenant, owner=await world.log_in(tenant.owner_email))


Call = tuple[str, Any]
"""A path and a body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """How a route is called so that it changes something, and so that it refuses to."""

    action: str
    does: Callable[[Scene], Awaitable[Call]]
    refuses: Call
    chain: TenantId | None = None


KEY = {"name": "audited", "environment": "live"}
ACCOUNT = {"name": "audited", "scopes": ["usage:read"]}
WEBHOOK = {"url": "http://127.0.0.1:9/"}


async def _own_session(scene: Scene) -> Call:
    await scene.world.log_in(scene.tenant.owner_email)
    sessions = (await scene.send("GET", "/v1/me/sessions")).json()["data"]
    return f"/v1/me/sessions/{next(each['id'] for each in sessions if not each['current'])}", None


def constantly(path: str, body: Any) -> Callable[[Scene], Awaitable[Call]]:
    async def call(_: Scene) -> Call:
        return path, body

    return call


def on(path: str, make: Callable[[Scene], Awaitable[str]], body: Any = None) -> Callable[[Scene], Awaitable[Call]]:
    """A call on something that is made first."""

    async def call(scene: Scene) -> Call:
        return path.format(await make(scene)), body

    return call


def with_token(path: str, get: Callable[[Scene], Awaitable[str]], **body: Any) -> Callable[[Scene], Awaitable[Call]]:
    async def call(scene: Scene) -> Call:
        return path, {"token": await get(scene), **body}

    return call


async def _key(scene: Scene) -> str:
    return await scene.made("/v1/api-keys", KEY)


async def _account(scene: Scene) -> str:
    return await scene.made("/v1/service-accounts", ACCOUNT)


async def _invitation(scene: Scene) -> str:
    body = {"email": f"somebody@{scene.tenant.slug}.example", "role": "viewer"}
    return await scene.made("/v1/invitations", body)


async def _webhook(scene: Scene) -> str:
    return await scene.made("/v1/webhooks", WEBHOOK)


async def _delivery(scene: Scene) -> str:
    webhook = await _webhook(scene)
    answer = await scene.send("POST", f"/v1/webhooks/{webhook}/test")
    return f"{webhook}/deliveries/{answer.json()['id']}"


MUTATIONS: dict[str, Mutation] = {
    "PATCH /v1/tenant": Mutation(
        action="tenant.updated",
        does=constantly("/v1/tenant", {"name": "Renamed"}),
        refuses=("/v1/tenant", {"name": ""}),
    ),
    "PATCH /v1/members/{member_id}": Mutation(
        action="member.updated",
        does=on("/v1/members/{}", Scene.member, {"role": "developer"}),
        refuses=("/v1/members/mem_none", {"role": "developer"}),
    ),
    "DELETE /v1/members/{member_id}": Mutation(
        action="member.removed", does=on("/v1/members/{}", Scene.member), refuses=("/v1/members/mem_none", None)
    ),
    "POST /v1/invitations": Mutation(
        action="invitation.created",
        does=constantly("/v1/invitations", {"email": "guest@elsewhere.example", "role": "viewer"}),
        refuses=("/v1/invitations", {"email": "nobody", "role": "viewer"}),
    ),
    "DELETE /v1/invitations/{invitation_id}": Mutation(
        action="invitation.revoked",
        does=on("/v1/invitations/{}", _invitation),
        refuses=("/v1/invitations/inv_none", None),
    ),
    "POST /v1/invitations/accept": Mutation(
        action="invitation.accepted",
        does=with_token("/v1/invitations/accept", Scene.invited, password=NEW_PASSWORD),
        refuses=("/v1/invitations/accept", {"token": "none"}),
    ),
    "POST /v1/service-accounts": Mutation(
        action="service-account.created",
        does=constantly("/v1/service-accounts", ACCOUNT),
        refuses=("/v1/service-accounts", {"name": "x", "scopes": ["usage:all"]}),
    ),
    "POST /v1/service-accounts/{account_id}/rotate-secret": Mutation(
        action="service-account.rotated",
        does=on("/v1/service-accounts/{}/rotate-secret", _account),
        refuses=("/v1/service-accounts/sa_none/rotate-secret", None),
    ),
    "DELETE /v1/service-accounts/{account_id}": Mutation(
        action="service-account.deleted",
        does=on("/v1/service-accounts/{}", _account),
        refuses=("/v1/service-accounts/sa_none", None),
    ),
    "POST /v1/api-keys": Mutation(
        action="api-key.created",
        does=constantly("/v1/api-keys", KEY),
        refuses=("/v1/api-keys", {**KEY, "allowed_cidrs": ["nowhere"]}),
    ),
    "PATCH /v1/api-keys/{key_id}": Mutation(
        action="api-key.updated",
        does=on("/v1/api-keys/{}", _key, {"name": "renamed"}),
        refuses=("/v1/api-keys/key_none", {"name": "renamed"}),
    ),
    "POST /v1/api-keys/{key_id}/rotate": Mutation(
        action="api-key.rotated",
        does=on("/v1/api-keys/{}/rotate", _key, {"overlap_seconds": 60}),
        refuses=("/v1/api-keys/key_none/rotate", {"overlap_seconds": 60}),
    ),
    "POST /v1/api-keys/{key_id}/revoke": Mutation(
        action="api-key.revoked",
        does=on("/v1/api-keys/{}/revoke", _key),
        refuses=("/v1/api-keys/key_none/revoke", None),
    ),
    "POST /v1/webhooks": Mutation(
        action="webhook.created",
        does=constantly("/v1/webhooks", WEBHOOK),
        refuses=("/v1/webhooks", {"url": "https://10.0.0.1/"}),
    ),
    "PATCH /v1/webhooks/{webhook_id}": Mutation(
        action="webhook.updated",
        does=on("/v1/webhooks/{}", _webhook, {"description": "changed"}),
        refuses=("/v1/webhooks/whk_none", {"description": "changed"}),
    ),
    "DELETE /v1/webhooks/{webhook_id}": Mutation(
        action="webhook.deleted", does=on("/v1/webhooks/{}", _webhook), refuses=("/v1/webhooks/whk_none", None)
    ),
    "POST /v1/webhooks/{webhook_id}/rotate-secret": Mutation(
        action="webhook.rotated",
        does=on("/v1/webhooks/{}/rotate-secret", _webhook, {}),
        refuses=("/v1/webhooks/whk_none/rotate-secret", {}),
    ),
    "POST /v1/webhooks/{webhook_id}/test": Mutation(
        action="webhook.tested",
        does=on("/v1/webhooks/{}/test", _webhook),
        refuses=("/v1/webhooks/whk_none/test", None),
    ),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": Mutation(
        action="webhook.redelivered",
        does=on("/v1/webhooks/{}/redeliver", _delivery),
        refuses=("/v1/webhooks/whk_none/deliveries/whd_none/redeliver", None),
    ),
    "POST /v1/me/password": Mutation(
        action="password.changed",
        does=constantly("/v1/me/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD}),
        refuses=("/v1/me/password", {"new_password": NEW_PASSWORD}),
    ),
    "DELETE /v1/me/sessions/{session_id}": Mutation(
        action="session.revoked", does=_own_session, refuses=("/v1/me/sessions/ses_none", None)
    ),
    "POST /v1/auth/reset": Mutation(
        action="password.reset",
        does=with_token("/v1/auth/reset", Scene.forgotten, new_password=NEW_PASSWORD),
        refuses=("/v1/auth/reset", {"token": "none", "new_password": NEW_PASSWORD}),
        chain=PLATFORM_CHAIN,
    ),
}
TESTED_ELSEWHERE = {
    # Forms, whose records the tests of logins and of sign-up look at.
    "POST /v1/auth/token",
    "POST /v1/auth/revoke",
    "POST /v1/auth/confirm",
    # These only have a message sent: nothing is there before it is answered.
    "POST /v1/auth/register",
    "POST /v1/auth/forgot",
    # The operator's, whose records tests/api/test_platform.py looks at.
    "POST /v1/admin/tenants",
    "POST /v1/admin/tenants/{tenant_id}/suspend",
    "POST /v1/admin/tenants/{tenant_id}/resume",
    "PUT /v1/admin/tenants/{tenant_id}/subscription",
    "PUT /v1/admin/tenants/{tenant_id}/biller-customer",
    "POST /v1/admin/plans",
    # Models, whose records tests/api/test_rollouts.py looks at.
    "PUT /v1/admin/models/{model}/aliases/{alias}",
    "DELETE /v1/admin/models/{model}/aliases/{alias}",
    "POST /v1/admin/models/{model}/versions/{version}/load",
    "POST /v1/admin/models/{model}/versions/{version}/unload",
    # Limits, whose records tests/api/test_limits_routes.py looks at: the same again leaves none.
    "PUT /v1/limits",
    # Bookings of the platform's, whose records tests/api/test_billing.py looks at.
    "POST /v1/usage/adjustments",
    "POST /v1/usage/periods/{period}/close",
    # These write to the ledger.
    "POST /v1/predict",
    "POST /v1/models/{model}/predict",
}
FOR_EVERYBODY = {"POST /v1/invitations/accept", "POST /v1/auth/reset"}
each_mutation = pytest.mark.parametrize("route", sorted(MUTATIONS))


async def test_g1_every_mutating_route_is_looked_at(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    routes = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if method != "get" and not (path.startswith("/v1/models/") and "{" not in path)
    }
    assert routes - TESTED_ELSEWHERE == set(MUTATIONS)


@each_mutation
async def test_g1_a_mutation_leaves_exactly_one_record(scene: Scene, route: str) -> None:
    mutation = MUTATIONS[route]
    path, body = await mutation.does(scene)
    chain = mutation.chain or scene.tenant.id
    before = len(await trail(scene.world, chain))
    answer = await scene.send(route.split(maxsplit=1)[0], path, body)
    assert answer.is_success, answer.text
    found = [record.entry for record in (await trail(scene.world, chain))[before:]]
    if chain == PLATFORM_CHAIN:
        # Other tests write to this chain too.
        found = [entry for entry in found if entry.actor.request_id == answer.headers["x-request-id"]]
    [entry] = found
    assert entry.action == mutation.action
    assert entry.actor.address == scene.world.address
    assert entry.actor.request_id == answer.headers["x-request-id"]
    assert entry.actor.kind == "user"


@each_mutation
async def test_g1_a_refusal_leaves_no_record(scene: Scene, route: str) -> None:
    mutation = MUTATIONS[route]
    chain = mutation.chain or scene.tenant.id
    path, body = mutation.refuses
    before = len(await trail(scene.world, chain))
    answer = await scene.send(route.split(maxsplit=1)[0], path, body)
    assert answer.is_client_error, answer.text
    found = [record.entry for record in (await trail(scene.world, chain))[before:]]
    assert [entry for entry in found if entry.actor.request_id == answer.headers["x-request-id"]] == []
    if chain != PLATFORM_CHAIN:
        assert found == []


@pytest.mark.parametrize("route", sorted(set(MUTATIONS) - FOR_EVERYBODY))
async def test_g1_a_caller_without_the_scope_leaves_no_record(scene: Scene, route: str) -> None:
    mutation = MUTATIONS[route]
    path, body = await mutation.does(scene)
    before = len(await trail(scene.world, scene.tenant.id))
    answer = await scene.send(route.split(maxsplit=1)[0], path, body, headers=scene.tenant.live.headers)
    assert answer.status_code == 403
    assert len(await trail(scene.world, scene.tenant.id)) == before


# ---------------------------------------------------------------------------------------------------- reading it


async def test_records_are_listed_newest_first_page_by_page(scene: Scene) -> None:
    for number in range(5):
        await scene.send("PATCH", "/v1/tenant", {"name": f"name {number}"})
    seen, cursor = [], ""
    while True:
        page = (await scene.send("GET", f"/v1/audit-log?limit=3{cursor}")).json()
        seen.extend(page["data"])
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    sequences = [record["sequence"] for record in seen]
    assert sequences == list(range(len(seen), 0, -1))
    newest = seen[0]
    assert newest["id"].startswith("aud_")
    assert newest["action"] == "tenant.updated"
    assert (newest["before"], newest["after"]) == ({"name": "name 3"}, {"name": "name 4"})
    assert newest["actor"].keys() == {"kind", "id", "address", "request_id"}
    assert newest["previous_hash"] == seen[1]["hash"]
    assert newest["at"].endswith("Z")


async def test_records_are_filtered(scene: Scene) -> None:
    key_id = await _key(scene)
    await scene.send("PATCH", "/v1/tenant", {"name": "Renamed"})

    async def found(query: str) -> list[str]:
        answer = await scene.send("GET", f"/v1/audit-log?limit=100&{query}")
        assert answer.status_code == 200, answer.text
        return [record["action"] for record in answer.json()["data"]]

    assert await found(f"target_id={key_id}") == ["api-key.created"]
    assert await found("action=tenant.updated") == ["tenant.updated"]
    assert await found("actor_id=usr_none") == []
    assert await found("from=2000-01-01T00:00:00Z&to=2000-01-02T00:00:00Z") == []
    assert await found("from=2000-01-01T00:00:00Z") == await found("to=2100-01-01T00:00:00Z")


@pytest.mark.parametrize("query", ["action=nonsense", "limit=0", "limit=101", "from=yesterday", "cursor=nonsense"])
async def test_a_question_that_makes_no_sense_is_refused(scene: Scene, query: str) -> None:
    assert problem(await scene.send("GET", f"/v1/audit-log?{query}")) == (422, "validation-failed")


async def test_a1_a_cursor_is_good_for_its_own_tenant_and_question_alone(scene: Scene) -> None:
    page = (await scene.send("GET", "/v1/audit-log?limit=1")).json()
    other = await scene.world.log_in((await scene.world.tenant()).owner_email)
    path = f"/v1/audit-log?cursor={page['next_cursor']}"
    assert problem(await scene.send("GET", path, headers=other)) == (422, "validation-failed")
    assert problem(await scene.send("GET", f"{path}&actor_id=usr_1")) == (422, "validation-failed")


async def test_the_chain_is_verified(scene: Scene) -> None:
    await scene.send("PATCH", "/v1/tenant", {"name": "Renamed"})
    body = (await scene.send("GET", "/v1/audit-log/verify")).json()
    [newest] = (await scene.send("GET", "/v1/audit-log?limit=1")).json()["data"]
    assert body == {"valid": True, "records": newest["sequence"], "head": newest["hash"], "broken_at": None}


async def test_the_export_is_the_whole_chain_oldest_first(scene: Scene) -> None:
    await scene.send("PATCH", "/v1/tenant", {"name": "Renamed"})
    answer = await scene.send("GET", "/v1/audit-log/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    records = [json.loads(line) for line in answer.text.splitlines()]
    listed = (await scene.send("GET", "/v1/audit-log?limit=100")).json()["data"]
    assert records == listed[::-1]


async def test_a1_another_tenants_records_are_never_seen(scene: Scene) -> None:
    other = await scene.world.log_in((await scene.world.tenant()).owner_email)
    await scene.send("PATCH", "/v1/tenant", {"name": "Very own name"})
    for path in ("/v1/audit-log?limit=100", "/v1/audit-log/export"):
        assert "Very own name" not in (await scene.send("GET", path, headers=other)).text
        assert "Very own name" in (await scene.send("GET", path)).text


async def test_k3_no_record_holds_a_secret(scene: Scene) -> None:
    key = (await scene.send("POST", "/v1/api-keys", KEY)).json()
    account = (await scene.send("POST", "/v1/service-accounts", ACCOUNT)).json()
    token = await scene.invited()
    await scene.send("POST", "/v1/me/password", {"current_password": PASSWORD, "new_password": NEW_PASSWORD})
    text = (await scene.send("GET", "/v1/audit-log/export")).text
    for secret in (key["secret"], account["client_secret"], token, PASSWORD, NEW_PASSWORD, "argon2"):
        assert secret not in text
