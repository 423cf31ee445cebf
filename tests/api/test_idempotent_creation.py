"""``Idempotency-Key`` on every request that creates, in both shapes: made once, answered the same again."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from httpx import Response
from sqlalchemy import text

from backend.api.idempotency import IdempotentRoute, claim_repetition
from backend.domain.api_keys import parse_key
from backend.domain.scopes import Role
from backend.worker import idempotency_cleanup
from tests.api.conftest import ClockedWorld, TenantUnderTest, World
from tests.api.test_predictions import pointers, problem
from tests.api.walk import routes_of

pytestmark = pytest.mark.anyio

Body = dict[str, Any]
Target = tuple[str, Body, Body]
KEY = {"name": "checkout", "environment": "live"}
ACCOUNT = {"name": "billing job", "scopes": ["usage:read"]}


async def a_new_key(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    return "/v1/api-keys", KEY, KEY | {"name": "other"}


async def a_rotation(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    return f"/v1/api-keys/{tenant.live.id}/rotate", {"overlap_seconds": 60}, {"overlap_seconds": 61}


async def an_invitation(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    body = {"email": f"guest@{tenant.slug}.example", "role": "viewer"}
    return "/v1/invitations", body, body | {"role": "developer"}


async def a_service_account(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    return "/v1/service-accounts", ACCOUNT, ACCOUNT | {"name": "other"}


WEBHOOK = {"url": "http://127.0.0.1:9/"}


async def a_webhook(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    return "/v1/webhooks", WEBHOOK, WEBHOOK | {"description": "other"}


async def a_new_webhook_secret(world: World, tenant: TenantUnderTest, owner: dict[str, str]) -> Target:
    made = await world.client.post("/v1/webhooks", json=WEBHOOK, headers=owner)
    return f"/v1/webhooks/{made.json()['id']}/rotate-secret", {"overlap_seconds": 60}, {"overlap_seconds": 61}


CREATING: dict[str, Callable[..., Any]] = {
    "POST /v1/api-keys": a_new_key,
    "POST /v1/api-keys/{key_id}/rotate": a_rotation,
    "POST /v1/invitations": an_invitation,
    "POST /v1/service-accounts": a_service_account,
    "POST /v1/webhooks": a_webhook,
    "POST /v1/webhooks/{webhook_id}/rotate-secret": a_new_webhook_secret,
}
# These take the header, and are tested elsewhere or by a case of their own.
OTHERS = {
    "POST /v1/predict",
    "POST /v1/models/{model}/predict",
    "POST /v1/service-accounts/{account_id}/rotate-secret",
    "POST /v1/webhooks/{webhook_id}/test",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
    "POST /v1/admin/tenants",
    "POST /v1/admin/plans",
    "POST /v1/usage/adjustments",
}
each_creation = pytest.mark.parametrize("creation", CREATING.values(), ids=CREATING)


async def post(world: World, path: str, headers: dict[str, str], body: Any, once: str | None = None) -> Response:
    extra = {} if once is None else {"Idempotency-Key": once}
    return await world.client.post(path, json=body, headers=headers | extra)


async def prepared(world: World, creation: Callable[..., Any]) -> tuple[dict[str, str], Target]:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    return owner, await creation(world, tenant, owner)


async def audited(world: World, headers: dict[str, str]) -> int:
    answer = await world.client.get("/v1/audit-log?limit=100", headers=headers)
    return len(answer.json()["data"])


@each_creation
async def test_the_same_request_again_is_the_same_answer_and_one_creation(world: World, creation: Any) -> None:
    owner, (path, body, _) = await prepared(world, creation)
    first = await post(world, path, owner, body, "once")
    assert first.status_code in {200, 201}, first.text
    assert "idempotency-replayed" not in first.headers
    done = await audited(world, owner)
    second = await post(world, path, owner, body, "once")
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["idempotency-replayed"] == "true"
    for name in ("content-type", "location", "cache-control"):
        assert second.headers.get(name) == first.headers.get(name)
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert await audited(world, owner) == done


@each_creation
async def test_422_another_body_under_the_same_key(world: World, creation: Any) -> None:
    owner, (path, body, other) = await prepared(world, creation)
    await post(world, path, owner, body, "once")
    assert problem(await post(world, path, owner, other, "once")) == (422, "idempotency-key-reused")


@each_creation
async def test_many_at_once_under_one_key_are_one_creation(world: World, creation: Any) -> None:
    owner, (path, body, _) = await prepared(world, creation)
    before = await audited(world, owner)
    answers = await asyncio.gather(*(post(world, path, owner, body, "once") for _ in range(6)))
    done = [answer for answer in answers if answer.status_code in {200, 201}]
    assert len({answer.content for answer in done}) == 1
    refused = [problem(answer) for answer in answers if answer not in done]
    assert set(refused) <= {(409, "idempotency-in-progress")}
    assert await audited(world, owner) == before + 1


@each_creation
async def test_a1_another_credential_of_the_same_tenant_has_keys_of_its_own(world: World, creation: Any) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    admin = await world.log_in(await world.member(tenant, Role.ADMIN))
    path, body, other = await creation(world, tenant, owner)
    first = await post(world, path, owner, body, "once")
    second = await post(world, path, admin, other, "once")
    assert "idempotency-replayed" not in second.headers
    assert second.content != first.content


@each_creation
async def test_k2_nothing_of_the_answer_stands_in_the_store_in_clear(world: World, creation: Any) -> None:
    owner, (path, body, _) = await prepared(world, creation)
    answer = await post(world, path, owner, body, "k2")
    sealed, headers = await newest_record(world)
    secret = answer.json().get("secret", answer.json()["id"])
    parsed = parse_key(secret)
    for part in (secret, parsed.secret if parsed else secret, answer.json()["id"]):
        assert part.encode() not in sealed
    assert {name for name, _ in headers} <= {"content-type", "location", "cache-control"}


async def newest_record(world: World) -> tuple[bytes, list[list[str]]]:
    """Return what the store keeps of the answer that was kept last under the key ``k2``."""
    engine = world.resources.store.engine  # type: ignore[attr-defined]  # the tests' own look at the database
    query = text(
        "SELECT sealed_body, headers FROM idempotency_records WHERE key = 'k2' ORDER BY created_at DESC LIMIT 1"
    )
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
        sealed, headers = (await connection.execute(query)).one()
    return bytes(sealed), json.loads(headers) if isinstance(headers, str) else headers


async def test_a_refusal_is_not_kept(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    for _ in range(2):
        answer = await post(world, "/v1/api-keys", owner, KEY | {"models": ["no model!"]}, "once")
        assert problem(answer) == (422, "validation-failed")
        assert "idempotency-replayed" not in answer.headers
    assert (await post(world, "/v1/api-keys", owner, KEY, "once")).status_code == 201


async def test_the_same_key_on_another_path_is_another_request(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    path = "/v1/api-keys/{}/rotate"
    body = {"overlap_seconds": 60}
    assert (await post(world, path.format(tenant.live.id), owner, body, "once")).status_code == 200
    answer = await post(world, path.format(tenant.test.id), owner, body, "once")
    assert problem(answer) == (422, "idempotency-key-reused")


async def test_l7_a_stored_answer_goes_only_to_who_may_still_ask(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    developer = await world.log_in(await world.member(tenant, Role.DEVELOPER))
    first = await post(world, "/v1/api-keys", developer, KEY | {"scopes": ["predict"]}, "once")
    assert first.status_code == 201
    members = (await world.client.get("/v1/members", headers=owner)).json()["data"]
    seat = next(each["id"] for each in members if each["role"] == "developer")
    answer = await world.client.patch(f"/v1/members/{seat}", json={"role": "viewer"}, headers=owner)
    assert answer.status_code == 200, answer.text
    again = await post(world, "/v1/api-keys", developer, KEY | {"scopes": ["predict"]}, "once")
    assert problem(again) == (403, "insufficient-scope")


@pytest.mark.parametrize("once", ["", "x" * 256, "tab\there", "caf\xe9"])
async def test_422_a_header_that_is_no_key(world: World, once: str) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    headers = [*owner.items(), ("Idempotency-Key", once.encode("latin-1"))]
    answer = await world.client.post("/v1/api-keys", json=KEY, headers=headers)  # type: ignore[arg-type]
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/header/Idempotency-Key"]


async def test_every_printable_key_of_255_characters_will_do(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    once = ("".join(map(chr, range(0x21, 0x7F))) * 3)[:255]
    first = await post(world, "/v1/api-keys", owner, KEY, once)
    assert first.status_code == 201
    assert (await post(world, "/v1/api-keys", owner, KEY, once)).content == first.content


async def test_after_24_hours_the_key_is_free_again(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    first = await post(world, "/v1/api-keys", owner, KEY, "day")
    world.clock.advance(timedelta(hours=24).total_seconds() - 1)
    owner = await world.log_in(tenant.owner_email)
    assert (await post(world, "/v1/api-keys", owner, KEY, "day")).content == first.content
    world.clock.advance(1)
    second = await post(world, "/v1/api-keys", owner, KEY, "day")
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]
    assert (await post(world, "/v1/api-keys", owner, KEY, "day")).content == second.content


async def test_the_clean_up_forgets_what_has_expired(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    job = idempotency_cleanup(world.resources.store, world.resources.clock)
    # What other tests have left behind goes first.
    world.clock.advance(timedelta(hours=24).total_seconds())
    await job.work()
    owner = await world.log_in(tenant.owner_email)
    assert (await post(world, "/v1/api-keys", owner, KEY, "clean")).status_code == 201
    assert await job.work() == 0
    world.clock.advance(timedelta(hours=24).total_seconds())
    assert await job.work() == 1
    assert await job.work() == 0


async def test_every_creating_route_takes_the_header_and_says_so(world: World) -> None:
    document = (await world.client.get("/openapi.json")).json()
    taking = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    }
    creating = {
        f"POST {path}"
        for path, operations in document["paths"].items()
        if "201" in operations.get("post", {}).get("responses", {})
    }
    typed = {name for name in taking if name.endswith("/predict")} - OTHERS
    assert creating <= taking
    assert taking - typed == set(CREATING) | OTHERS
    for name in taking:
        method, path = name.split()
        assert {"409", "422"} <= document["paths"][path][method.lower()]["responses"].keys()


async def test_a_route_that_claims_a_key_also_keeps_the_answer(world: World) -> None:
    claiming = [
        route
        for route in routes_of(world.app)
        if isinstance(route, APIRoute)
        and any(dependency.call is claim_repetition for dependency in route.dependant.dependencies)
    ]
    assert claiming
    assert [route.path for route in claiming if not isinstance(route, IdempotentRoute)] == []
