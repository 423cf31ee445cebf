"""A1: no tenant reaches what is another tenant's, in both shapes. Generated from the OpenAPI document.

Every path with a parameter stands in ``OWNED``, with something of tenant A's to ask for, or in ``SHARED``, with the
reason why it belongs to nobody. A new route in neither fails the suite.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from httpx import Response

from backend.domain.scopes import TENANT_SCOPES, Role
from tests.api.conftest import Key, TenantUnderTest, World
from tests.api.test_predictions import pointers, problem

pytestmark = pytest.mark.anyio

MISSING = {
    "key_id": "key_00000000000000000000000000",
    "member_id": "mem_00000000000000000000000000",
    "invitation_id": "inv_00000000000000000000000000",
    "account_id": "sa_00000000000000000000000000",
    "session_id": "ses_00000000000000000000000000",
    "webhook_id": "whk_00000000000000000000000000",
    "webhook_id}/deliveries/{delivery_id": "whk_00000000000000000000000000/deliveries/whd_00000000000000000000000000",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A tenant, its owner signed in, and a key that holds every scope."""

    world: World
    tenant: TenantUnderTest
    owner: dict[str, str]
    key: Key

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Response:
        return await self.world.client.get(path, params=query, headers=headers or self.owner)

    async def listed(self, path: str, **query: Any) -> list[dict[str, Any]]:
        answer = await self.get(path, **query)
        assert answer.status_code == 200, answer.text
        data: list[dict[str, Any]] = answer.json()["data"]
        return data

    async def made(self, path: str, body: dict[str, Any]) -> str:
        answer = await self.world.client.post(path, json=body, headers=self.owner)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def side_of(world: World) -> Side:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=TENANT_SCOPES)
    return Side(world, tenant, await world.log_in(tenant.owner_email), key)


@pytest.fixture
async def sides(world: World) -> tuple[Side, Side]:
    """Tenant A, whose things are asked for, and tenant B, who asks."""
    return await side_of(world), await side_of(world)


Finder = Callable[[Side], Awaitable[str]]


async def a_key(side: Side) -> str:
    return side.tenant.live.id


async def a_member(side: Side) -> str:
    await side.world.member(side.tenant, Role.VIEWER)
    return str(next(each["id"] for each in await side.listed("/v1/members") if each["role"] == "viewer"))


async def an_invitation(side: Side) -> str:
    return await side.made("/v1/invitations", {"email": f"guest@{side.tenant.slug}.example", "role": "viewer"})


async def a_service_account(side: Side) -> str:
    return await side.made("/v1/service-accounts", {"name": "job", "scopes": ["usage:read"]})


async def a_session(side: Side) -> str:
    return str((await side.listed("/v1/me/sessions"))[0]["id"])


async def a_webhook(side: Side) -> str:
    return await side.made("/v1/webhooks", {"url": "http://127.0.0.1:9/"})


async def a_delivery(side: Side) -> str:
    webhook = await a_webhook(side)
    answer = await side.world.client.post(f"/v1/webhooks/{webhook}/test", headers=side.owner)
    return f"{webhook}/deliveries/{answer.json()['id']}"


OWNED: dict[str, tuple[str, Finder, dict[str, Any] | None]] = {
    "GET /v1/api-keys/{key_id}": ("key_id", a_key, None),
    "PATCH /v1/api-keys/{key_id}": ("key_id", a_key, {"name": "mine"}),
    "POST /v1/api-keys/{key_id}/rotate": ("key_id", a_key, {"overlap_seconds": 0}),
    "POST /v1/api-keys/{key_id}/revoke": ("key_id", a_key, None),
    "PATCH /v1/members/{member_id}": ("member_id", a_member, {"role": "developer"}),
    "DELETE /v1/members/{member_id}": ("member_id", a_member, None),
    "DELETE /v1/invitations/{invitation_id}": ("invitation_id", an_invitation, None),
    "POST /v1/service-accounts/{account_id}/rotate-secret": ("account_id", a_service_account, None),
    "DELETE /v1/service-accounts/{account_id}": ("account_id", a_service_account, None),
    "DELETE /v1/me/sessions/{session_id}": ("session_id", a_session, None),
    "GET /v1/webhooks/{webhook_id}": ("webhook_id", a_webhook, None),
    "PATCH /v1/webhooks/{webhook_id}": ("webhook_id", a_webhook, {"description": "mine"}),
    "DELETE /v1/webhooks/{webhook_id}": ("webhook_id", a_webhook, None),
    "POST /v1/webhooks/{webhook_id}/rotate-secret": ("webhook_id", a_webhook, {"overlap_seconds": 0}),
    "POST /v1/webhooks/{webhook_id}/test": ("webhook_id", a_webhook, None),
    "GET /v1/webhooks/{webhook_id}/deliveries": ("webhook_id", a_webhook, None),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": (
        "webhook_id}/deliveries/{delivery_id",
        a_delivery,
        None,
    ),
}
MODELS = "the models are the platform's, the same for every tenant"
MONTHS = "a month is nobody's; whose books are shown is tested in test_billing.py"
ADMIN = "the operator's: the role matrix lets nobody from a tenant in"
SHARED = {
    "GET /v1/admin/tenants/{tenant_id}": ADMIN,
    "POST /v1/admin/tenants/{tenant_id}/suspend": ADMIN,
    "POST /v1/admin/tenants/{tenant_id}/resume": ADMIN,
    "GET /v1/admin/tenants/{tenant_id}/biller-customer": ADMIN,
    "PUT /v1/admin/tenants/{tenant_id}/biller-customer": ADMIN,
    "GET /v1/admin/tenants/{tenant_id}/subscription": ADMIN,
    "PUT /v1/admin/tenants/{tenant_id}/subscription": ADMIN,
    "GET /v1/admin/plans/{plan_id}": ADMIN,
    "GET /v1/admin/models/{model}/aliases": ADMIN,
    "PUT /v1/admin/models/{model}/aliases/{alias}": ADMIN,
    "DELETE /v1/admin/models/{model}/aliases/{alias}": ADMIN,
    "POST /v1/admin/models/{model}/versions/{version}/load": ADMIN,
    "POST /v1/admin/models/{model}/versions/{version}/unload": ADMIN,
    "GET /v1/usage/periods/{period}": MONTHS,
    "GET /v1/usage/periods/{period}/reconciliation": MONTHS,
    "POST /v1/usage/periods/{period}/close": "the platform's: the role matrix lets nobody from a tenant in",
    "GET /v1/models/{model}": MODELS,
    "GET /v1/models/{model}/versions/{version}": MODELS,
    "POST /v1/models/{model}/predict": MODELS,
}
LISTS = ("/v1/api-keys", "/v1/members", "/v1/invitations", "/v1/service-accounts", "/v1/webhooks", "/v1/audit-log")
# Of these only people may ask.
FOR_PEOPLE = {"DELETE /v1/me/sessions/{session_id}"}


async def test_a1_every_route_with_an_id_has_an_entry(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    with_id = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
        if "{" in path
    }
    assert with_id == OWNED.keys() | SHARED.keys()


@pytest.mark.parametrize("route", OWNED)
async def test_a1_404_another_tenants_id(sides: tuple[Side, Side], route: str) -> None:
    mine, other = sides
    parameter, find, body = OWNED[route]
    found = await find(mine)
    method, path = route.split()
    callers = [other.owner] if route in FOR_PEOPLE else [other.owner, other.key.headers]
    before = await everything(mine)
    for headers in callers:
        answers = [
            await mine.world.client.request(
                method, path.replace(f"{{{parameter}}}", wanted), json=body, headers=headers
            )
            for wanted in (found, MISSING[parameter])
        ]
        assert [problem(answer) for answer in answers] == [(404, "not-found")] * 2
        theirs, nobodys = ({**answer.json(), "request_id": "", "instance": ""} for answer in answers)
        assert theirs == nobodys, "nothing tells another tenant's from what does not exist"
    assert await everything(mine) == before


async def everything(side: Side) -> list[Any]:
    """Return all that a tenant sees of itself."""
    return [await side.listed(path, limit=100) for path in LISTS]


async def test_a1_lists_hold_ones_own(sides: tuple[Side, Side]) -> None:
    mine, other = sides
    for side in sides:
        await an_invitation(side)
        await a_service_account(side)
        await a_webhook(side)
        await side.world.predict(side.tenant.live)
        await side.world.events(side.tenant)
    for path in (
        "/v1/api-keys",
        "/v1/members",
        "/v1/invitations",
        "/v1/service-accounts",
        "/v1/webhooks",
        "/v1/audit-log",
    ):
        seen = [{each["id"] for each in await side.listed(path, limit=100)} for side in (mine, other)]
        assert seen[0], path
        assert seen[0].isdisjoint(seen[1]), path
    for side in sides:
        events = await side.listed("/v1/usage/events")
        assert {each["tenant_id"] for each in events} == {side.tenant.id}
        members = await side.listed("/v1/members")
        assert {each["email"] for each in members} == {side.tenant.owner_email}


async def test_a1_filters_by_another_tenants_ids_find_nothing(sides: tuple[Side, Side]) -> None:
    mine, other = sides
    await mine.world.predict(mine.tenant.live)
    await mine.world.events(mine.tenant)
    assert await mine.listed("/v1/usage/events", key_id=mine.tenant.live.id)
    assert await other.listed("/v1/usage/events", key_id=mine.tenant.live.id) == []
    assert await mine.listed("/v1/audit-log", target_id=mine.tenant.live.id)
    assert await other.listed("/v1/audit-log", target_id=mine.tenant.live.id) == []
    assert await other.listed("/v1/audit-log", actor_id="operator") != await mine.listed(
        "/v1/audit-log", actor_id="operator"
    )


PAGED = (*LISTS, "/v1/usage/events")
# A list of one's own under an id, which another tenant does not get past.
PAGED_UNDER_AN_ID = {"/v1/webhooks/{webhook_id}/deliveries"}


@pytest.mark.parametrize("path", PAGED)
async def test_a1_422_another_tenants_cursor(sides: tuple[Side, Side], path: str) -> None:
    mine, other = sides
    for side in sides:
        for number in range(2):
            await side.world.member(side.tenant, Role.VIEWER)
            await side.made("/v1/invitations", {"email": f"g{number}@{side.tenant.slug}.example", "role": "viewer"})
            await a_service_account(side)
            await a_webhook(side)
            await side.world.predict(side.tenant.live)
        await side.world.events(side.tenant)
    cursor = (await mine.get(path, limit=1)).json()["next_cursor"]
    assert cursor
    assert (await mine.get(path, limit=1, cursor=cursor)).status_code == 200
    answer = await other.get(path, limit=1, cursor=cursor)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/query/cursor"]


async def test_a1_every_list_with_a_cursor_stands_above(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    paged = {
        path
        for path, operations in document["paths"].items()
        # Tenants and plans are no tenant's: the operator alone is let in.
        if not path.startswith("/v1/admin/")
        for operation in operations.values()
        if any(each["name"] == "cursor" for each in operation.get("parameters", ()))
    }
    # Periods and adjustments take months to make more than a page of: test_billing.py has their cursors.
    assert paged == {*PAGED, "/v1/usage/periods", "/v1/usage/adjustments"} | PAGED_UNDER_AN_ID


async def test_a1_idempotency_keys_are_not_shared(sides: tuple[Side, Side]) -> None:
    body = {"name": "n", "environment": "live"}
    answers = [
        await side.world.client.post("/v1/api-keys", json=body, headers=side.owner | {"Idempotency-Key": "same"})
        for side in sides
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert all("idempotency-replayed" not in answer.headers for answer in answers)
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_a1_the_audit_export_holds_ones_own(sides: tuple[Side, Side]) -> None:
    mine, _ = sides
    await a_service_account(mine)
    texts = [(await side.get("/v1/audit-log/export")).text for side in sides]
    assert mine.tenant.live.id in texts[0]
    for foreign in (mine.tenant.live.id, mine.tenant.id, mine.tenant.owner_email):
        assert foreign not in texts[1]


@pytest.mark.parametrize("name", ["X-Tenant-Id", "Tenant", "X-Forecourt-Tenant", "tenant_id"])
async def test_a3_no_header_or_parameter_names_the_tenant(sides: tuple[Side, Side], name: str) -> None:
    mine, other = sides
    for headers in (other.owner, other.key.headers):
        plain = await other.get("/v1/api-keys", headers)
        asked = await other.get("/v1/api-keys", headers | {name: mine.tenant.id}, tenant_id=mine.tenant.id)
        assert asked.json() == plain.json()
    answer = await other.world.client.post(
        "/v1/api-keys", json={"name": "n", "environment": "live", "tenant_id": mine.tenant.id}, headers=other.owner
    )
    assert problem(answer) == (422, "validation-failed")
