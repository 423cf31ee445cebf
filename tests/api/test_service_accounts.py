"""Service accounts and their client credentials, in both shapes."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

import pytest
from httpx import Response
from sqlalchemy import text

from backend.adapters.db.row_security import see_all_tenants
from backend.domain.audit import OPERATOR, PLATFORM_CHAIN
from backend.domain.scopes import PLATFORM_SCOPES, TENANT_SCOPES, PlatformRole, Role, Scope
from backend.domain.tenants import TenantStatus
from backend.services.service_accounts import ServiceAccountService
from tests.api.conftest import IRIS, TenantUnderTest, World
from tests.api.test_predictions import problem
from tests.api.trails import actions, trail

pytestmark = pytest.mark.anyio

Headers = dict[str, str]
USAGE = ("usage:read",)


@dataclass(frozen=True, slots=True)
class Client:
    """A program's credentials."""

    id: str
    secret: str


async def create(world: World, headers: Headers, scopes: Iterable[str] = USAGE, **body: Any) -> Response:
    content = {"name": "nightly job", "scopes": list(scopes), **body}
    return await world.client.post("/v1/service-accounts", json=content, headers=headers)


async def a_client(world: World, tenant: TenantUnderTest, scopes: Iterable[str] = USAGE) -> Client:
    answer = await create(world, await world.log_in(tenant.owner_email), scopes)
    assert answer.status_code == 201, answer.text
    return Client(answer.json()["client_id"], answer.json()["client_secret"])


async def a_billing_reader(world: World) -> Client:
    resources = world.resources
    async with resources.store.unit_of_work() as unit:
        service = ServiceAccountService(
            unit=unit, hasher=resources.key_hasher, cursors=resources.cursor_codec, clock=resources.clock
        )
        account, secret = await service.create_of_platform(OPERATOR, name="billing", role=PlatformRole.BILLING_READER)
    return Client(account.id, secret)


async def token(world: World, client: Client, **form: str) -> Response:
    return await world.token(grant_type="client_credentials", client_id=client.id, client_secret=client.secret, **form)


async def signed_in(world: World, client: Client, **form: str) -> Headers:
    answer = await token(world, client, **form)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def test_an_account_is_made_and_signs_in(world: World) -> None:
    tenant = await world.tenant()
    answer = await create(world, await world.log_in(tenant.owner_email), ["usage:read", "models:read"])
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["id"] == body["client_id"]
    assert body["id"].startswith("sa_")
    assert (body["scopes"], body["generation"]) == (["models:read", "usage:read"], 1)
    granted = await token(world, Client(body["client_id"], body["client_secret"]))
    assert granted.headers["cache-control"] == "no-store"
    tokens = granted.json()
    assert (tokens["scope"], tokens["token_type"]) == ("models:read usage:read", "bearer")
    assert "refresh_token" not in tokens
    assert 0 < tokens["expires_in"] <= 900
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    assert (await world.client.get("/v1/usage/summary", headers=headers)).status_code == 200
    assert (await world.client.get("/v1/models", headers=headers)).status_code == 200
    assert problem(await world.client.get("/v1/api-keys", headers=headers)) == (403, "insufficient-scope")


async def test_a_program_predicts_and_is_billed_under_its_own_id(world: World) -> None:
    tenant = await world.tenant()
    client = await a_client(world, tenant, ["predict"])
    headers = await signed_in(world, client)
    answer = await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=headers)
    assert answer.status_code == 200, answer.text
    await world.resources.predictions.settled()
    [event] = await world.events(tenant)
    assert event["key_id"] == client.id


@pytest.mark.parametrize("quoted", [False, True])
async def test_the_client_may_use_basic_authentication(world: World, quoted: bool) -> None:
    client = await a_client(world, await world.tenant())
    pair = f"{quote_plus(client.id)}:{quote_plus(client.secret)}" if quoted else f"{client.id}:{client.secret}"
    headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    answer = await world.client.post("/v1/auth/token", data={"grant_type": "client_credentials"}, headers=headers)
    assert answer.status_code == 200


async def test_credentials_in_both_places_are_refused(world: World) -> None:
    client = await a_client(world, await world.tenant())
    headers = {"Authorization": "Basic " + base64.b64encode(f"{client.id}:{client.secret}".encode()).decode()}
    form = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": client.secret}
    answer = await world.client.post("/v1/auth/token", data=form, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_unknown_clients_and_wrong_secrets_are_refused_the_same(world: World) -> None:
    tenant = await world.tenant()
    client = await a_client(world, tenant)
    answers = [
        await token(world, Client("sa_01JD0000000000000000000000", client.secret)),
        await token(world, Client(client.id, "fs_" + "A" * 43)),
        await token(world, Client(client.id, "' OR '1'='1")),
        await token(world, Client(tenant.owner_email, client.secret)),
    ]
    for header in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"nothing").decode()):
        form = {"grant_type": "client_credentials"}
        answers.append(await world.client.post("/v1/auth/token", data=form, headers={"Authorization": header}))
    assert {(answer.status_code, answer.content) for answer in answers} == {(401, answers[0].content)}
    assert answers[0].json()["error"] == "invalid_client"
    assert answers[0].headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize("form", [{}, {"client_id": "sa_1"}, {"client_secret": "x"}])
async def test_without_credentials_the_request_is_invalid(world: World, form: dict[str, str]) -> None:
    answer = await world.token(grant_type="client_credentials", **form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_token_may_be_narrower_and_never_wider(world: World) -> None:
    client = await a_client(world, await world.tenant(), ["usage:read", "models:read"])
    narrow = await signed_in(world, client, scope="models:read")
    assert problem(await world.client.get("/v1/usage/summary", headers=narrow)) == (403, "insufficient-scope")
    for scope in ("predict", "usage:read predict", "usage:all", "nonsense"):
        answer = await token(world, client, scope=scope)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_a_new_secret_ends_the_old_one_and_its_tokens_at_once(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    client = await a_client(world, tenant)
    headers = await signed_in(world, client)
    answer = await world.client.post(f"/v1/service-accounts/{client.id}/rotate-secret", headers=owner)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["generation"] == 2
    assert problem(await world.client.get("/v1/usage/summary", headers=headers)) == (401, "invalid-credentials")
    assert (await token(world, client)).status_code == 401
    newer = Client(client.id, answer.json()["client_secret"])
    assert (await world.client.get("/v1/usage/summary", headers=await signed_in(world, newer))).status_code == 200


async def test_a_deleted_account_is_out_at_once(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    client = await a_client(world, tenant, ["usage:read", "predict"])
    headers = await signed_in(world, client)
    answer = await world.client.delete(f"/v1/service-accounts/{client.id}", headers=owner)
    assert (answer.status_code, answer.content) == (204, b"")
    assert problem(await world.client.get("/v1/usage/summary", headers=headers)) == (401, "invalid-credentials")
    predicted = await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=headers)
    assert problem(predicted) == (401, "invalid-credentials")
    assert (await token(world, client)).status_code == 401
    assert (await world.client.get("/v1/service-accounts", headers=owner)).json()["data"] == []
    again = await world.client.delete(f"/v1/service-accounts/{client.id}", headers=owner)
    assert problem(again) == (404, "not-found")


async def test_a9_a_suspended_tenants_programs_are_out_at_once(world: World) -> None:
    tenant = await world.tenant()
    client = await a_client(world, tenant)
    headers = await signed_in(world, client)
    async with world._unit() as (tenants, _):
        await tenants.set_status(tenant.slug, TenantStatus.SUSPENDED)
    assert problem(await world.client.get("/v1/usage/summary", headers=headers)) == (403, "tenant-suspended")
    assert (await token(world, client)).json()["error"] == "invalid_client"


async def test_k2_the_secret_is_stored_as_a_keyed_hash_alone(world: World) -> None:
    client = await a_client(world, await world.tenant())
    async with world.resources.store.session() as session:  # type: ignore[attr-defined]
        await see_all_tenants(session)
        rows = (await session.execute(text("SELECT * FROM service_accounts"))).all()
    assert client.id in str(rows)
    assert client.secret not in str(rows)


async def test_k3_the_secret_stands_in_one_answer_and_in_no_audit_row(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    client = await a_client(world, tenant)
    listed = await world.client.get("/v1/service-accounts", headers=owner)
    assert client.id in listed.text
    assert client.secret not in listed.text
    assert {*listed.json()["data"][0]} == {
        "id", "client_id", "name", "scopes", "generation", "created_by", "created_at", "rotated_at"
    }  # fmt: skip
    assert client.secret not in str(await trail(world, tenant.id))


async def test_every_change_is_audited_once(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    before = len(await actions(world, tenant.id))
    client_id = (await create(world, owner)).json()["id"]
    await world.client.post(f"/v1/service-accounts/{client_id}/rotate-secret", headers=owner)
    await world.client.delete(f"/v1/service-accounts/{client_id}", headers=owner)
    assert (await actions(world, tenant.id))[before:] == [
        "service-account.created",
        "service-account.rotated",
        "service-account.deleted",
    ]


async def test_what_a_program_does_is_audited_as_the_programs(world: World) -> None:
    tenant = await world.tenant()
    client = await a_client(world, tenant, ["tenant:write"])
    headers = await signed_in(world, client)
    assert (await world.client.patch("/v1/tenant", json={"name": "By night"}, headers=headers)).status_code == 200
    actor = (await trail(world, tenant.id))[-1].entry.actor
    assert (actor.kind, actor.id, actor.address) == ("service-account", client.id, world.address)


async def test_the_same_idempotency_key_twice_is_one_account(world: World) -> None:
    tenant = await world.tenant()
    headers = {**await world.log_in(tenant.owner_email), "Idempotency-Key": "one job"}
    first, second = await create(world, headers), await create(world, headers)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"


# --------------------------------------------------------------------------------------------- who may make which


async def test_a6_nobody_makes_an_account_wider_than_themselves(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=frozenset({Scope.MEMBERS_WRITE, Scope.USAGE_READ}))
    assert (await create(world, key.headers)).status_code == 201
    refused = await create(world, key.headers, ["usage:read", "predict"])
    assert problem(refused) == (403, "scope-exceeds-grantor")


async def test_a6_a_key_for_one_model_makes_no_account_for_all_of_them(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=TENANT_SCOPES, models=("iris",))
    assert problem(await create(world, key.headers)) == (403, "scope-exceeds-grantor")


async def test_a6_nobody_gets_hold_of_a_wider_account_by_a_new_secret(world: World) -> None:
    tenant = await world.tenant()
    client = await a_client(world, tenant, ["predict"])
    key = await world.key(tenant, scopes=frozenset({Scope.MEMBERS_WRITE, Scope.USAGE_READ}))
    path = f"/v1/service-accounts/{client.id}/rotate-secret"
    assert problem(await world.client.post(path, headers=key.headers)) == (403, "scope-exceeds-grantor")
    assert (await token(world, client)).status_code == 200


@pytest.mark.parametrize("scope", sorted(PLATFORM_SCOPES))
async def test_a6_no_tenants_account_holds_a_platform_scope(world: World, scope: str) -> None:
    tenant = await world.tenant()
    answer = await create(world, await world.log_in(tenant.owner_email), [scope])
    assert problem(answer) == (403, "scope-exceeds-grantor")


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.BILLING, Role.VIEWER])
async def test_other_members_neither_make_nor_see_accounts(world: World, role: Role) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(await world.member(tenant, role))
    assert problem(await create(world, headers)) == (403, "insufficient-scope")
    assert problem(await world.client.get("/v1/service-accounts", headers=headers)) == (403, "insufficient-scope")


async def test_a1_another_tenants_account_is_not_found(world: World) -> None:
    client = await a_client(world, await world.tenant())
    stranger = await world.log_in((await world.tenant()).owner_email)
    path = f"/v1/service-accounts/{client.id}"
    assert problem(await world.client.post(f"{path}/rotate-secret", headers=stranger)) == (404, "not-found")
    assert problem(await world.client.delete(path, headers=stranger)) == (404, "not-found")
    assert (await token(world, client)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"scopes": []},
        {"scopes": ["nonsense"]},
        {"role": "owner"},
        {"tenant_id": "x"},
    ],
)
async def test_a4_a_body_that_describes_no_account_is_refused(world: World, body: dict[str, Any]) -> None:
    tenant = await world.tenant()
    answer = await create(world, await world.log_in(tenant.owner_email), **{"scopes": USAGE, **body})
    assert problem(answer) == (422, "validation-failed")


async def test_programs_are_no_people(world: World) -> None:
    headers = await signed_in(world, await a_client(world, await world.tenant()))
    for path in ("/v1/me", "/v1/me/sessions", "/v1/tenant"):
        assert problem(await world.client.get(path, headers=headers)) == (403, "forbidden")


# ------------------------------------------------------------------------------------------------ the billing job


async def test_the_billing_reader_reads_the_usage_of_every_tenant(world: World) -> None:
    tenants = [await world.tenant() for _ in range(2)]
    for tenant in tenants:
        await world.predict(tenant.live)
        await world.events(tenant)
    headers = await signed_in(world, await a_billing_reader(world))
    seen: set[str] = set()
    cursor = ""
    while True:
        page = (await world.client.get(f"/v1/usage/events?limit=100{cursor}", headers=headers)).json()
        seen |= {event["tenant_id"] for event in page["data"]}
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen >= {tenant.id for tenant in tenants}


async def test_a_tenant_sees_its_own_usage_alone(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    for tenant in (first, second):
        await world.predict(tenant.live)
    assert {event["tenant_id"] for event in await world.events(first)} == {first.id}


async def test_a_cursor_over_all_tenants_is_none_of_a_tenants(world: World) -> None:
    tenant = await world.tenant()
    for _ in range(2):
        await world.predict(tenant.live)
    await world.events(tenant)
    headers = await signed_in(world, await a_billing_reader(world))
    page = (await world.client.get("/v1/usage/events?limit=1", headers=headers)).json()
    answer = await world.client.get(f"/v1/usage/events?cursor={page['next_cursor']}", headers=tenant.live.headers)
    assert problem(answer) == (422, "validation-failed")


async def test_the_billing_reader_may_do_nothing_else(world: World) -> None:
    headers = await signed_in(world, await a_billing_reader(world))
    for path in ("/v1/usage/summary", "/v1/models", "/v1/members", "/v1/api-keys", "/v1/audit-log", "/v1/limits"):
        assert problem(await world.client.get(path, headers=headers)) == (403, "insufficient-scope"), path
    predicted = await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=headers)
    assert problem(predicted) == (403, "insufficient-scope")
    assert problem(await world.client.get("/v1/me", headers=headers)) == (403, "forbidden")


async def test_a_platform_account_is_audited_above_all_tenants(world: World) -> None:
    client = await a_billing_reader(world)
    record = (await trail(world, PLATFORM_CHAIN))[-1].entry
    assert (record.action, record.target_id) == ("service-account.created", client.id)
    assert record.after["platform_role"] == "billing_reader"


async def test_a1_no_tenant_reaches_a_platform_account(world: World) -> None:
    client = await a_billing_reader(world)
    owner = await world.log_in((await world.tenant()).owner_email)
    answer = await world.client.delete(f"/v1/service-accounts/{client.id}", headers=owner)
    assert problem(answer) == (404, "not-found")
