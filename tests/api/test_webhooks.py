"""Webhook endpoints over HTTP, in both shapes."""

from collections.abc import Mapping
from typing import Any

import pytest
from httpx import Response

from backend.api.deps import get_outbound
from backend.domain.errors import UrlNotAllowed
from backend.domain.scopes import Role, Scope
from backend.services.ports import OutboundAnswer
from tests.api.conftest import ClockedWorld, TenantUnderTest, World
from tests.api.test_predictions import pointers, problem
from tests.api.trails import actions, trail

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:9/hooks/T0KEN?sig=abc"
Headers = dict[str, str]


class Unwilling:
    """Calls nobody."""

    async def check(self, url: str) -> None:
        raise UrlNotAllowed.because("leads elsewhere by now")

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> OutboundAnswer:
        raise AssertionError


async def owner_of(world: World) -> tuple[TenantUnderTest, Headers]:
    tenant = await world.tenant()
    return tenant, await world.log_in(tenant.owner_email)


async def create(world: World, headers: Headers, **body: Any) -> Response:
    return await world.client.post("/v1/webhooks", json={"url": URL, **body}, headers=headers)


async def created(world: World, headers: Headers, **body: Any) -> dict[str, Any]:
    answer = await create(world, headers, **body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_k3_an_endpoint_is_made_and_its_secret_is_in_that_answer_alone(world: World) -> None:
    tenant, owner = await owner_of(world)
    answer = await create(world, owner, description="ops", events=["usage.threshold_reached"])
    assert answer.status_code == 201
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == {
        "id": made["id"],
        "url": URL,
        "events": ["usage.threshold_reached"],
        "description": "ops",
        "status": "enabled",
        "disabled_because": None,
        "disabled_at": None,
        "failing_since": None,
        "previous_secret_until": None,
        "created_by": made["created_by"],
        "created_at": made["created_at"],
    }
    assert (await world.client.get(f"/v1/webhooks/{made['id']}", headers=owner)).json() == made
    listed = await world.client.get("/v1/webhooks", headers=owner)
    assert listed.json() == {"data": [made], "has_more": False, "next_cursor": None}
    assert secret not in str([record.entry for record in await trail(world, tenant.id)])


async def test_k2_the_store_holds_no_secret_of_a_webhook(world: World) -> None:
    tenant, owner = await owner_of(world)
    made = await created(world, owner)
    rotated = await world.client.post(f"/v1/webhooks/{made['id']}/rotate-secret", json={}, headers=owner)
    rows = world.rows("SELECT * FROM webhook_endpoints WHERE tenant_id = :tenant", tenant=tenant.id)
    assert len(rows) == 1
    for secret in (made["secret"], rotated.json()["secret"]):
        for text in (secret, secret.removeprefix("whsec_")):
            assert text not in str(rows)
            assert text not in str(world.rows("SELECT * FROM audit_log WHERE tenant_id = :tenant", tenant=tenant.id))


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://[fd00:ec2::254]/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://127.0.0.2/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://100.64.0.1/",
        "http://1.1.1.1/",
        "ftp://1.1.1.1/",
        "https://user:secret@1.1.1.1/",
        "https://no-such-host.invalid/",
        "not a url",
    ],
)
async def test_w1_422_a_url_that_is_not_called(world: World, url: str) -> None:
    _, owner = await owner_of(world)
    answer = await create(world, owner, url=url)
    assert problem(answer) == (422, "url-not-allowed")
    assert pointers(answer) == ["/url"]
    assert "secret" not in answer.text
    made = await created(world, owner)
    changed = await world.client.patch(f"/v1/webhooks/{made['id']}", json={"url": url}, headers=owner)
    assert problem(changed) == (422, "url-not-allowed")
    assert (await world.client.get(f"/v1/webhooks/{made['id']}", headers=owner)).json()["url"] == URL


async def test_w1_a_public_address_is_taken(world: World) -> None:
    _, owner = await owner_of(world)
    assert (await created(world, owner, url="https://1.1.1.1:8443/hook"))["url"] == "https://1.1.1.1:8443/hook"


async def test_a7_whoever_may_not_have_an_endpoint_has_no_name_looked_up(world: World) -> None:
    tenant, _ = await owner_of(world)
    viewer = await world.log_in(await world.member(tenant, Role.VIEWER))
    answer = await create(world, viewer, url="https://10.0.0.1/")
    assert problem(answer) == (403, "insufficient-scope")
    assert problem(await create(world, {}, url="https://10.0.0.1/")) == (401, "invalid-credentials")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": None}, "/url"),
        ({"url": 5}, "/url"),
        ({"url": ""}, "/url"),
        ({"events": []}, "/events"),
        ({"events": ["usage.unheard_of"]}, "/events/0"),
        ({"events": ["webhook.test"]}, "/events"),
        ({"description": "x" * 201}, "/description"),
        ({"tenant_id": "ten_1"}, ""),
        ({"secret": "whsec_mine"}, ""),
        ({"status": "enabled"}, ""),
    ],
)
async def test_a4_422_points_at_the_place_once(world: World, body: dict[str, Any], pointer: str) -> None:
    _, owner = await owner_of(world)
    answer = await create(world, owner, **body)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


async def test_fields_that_are_sent_change_and_others_stay(world: World) -> None:
    tenant, owner = await owner_of(world)
    made = await created(world, owner, events=["api_key.revoked"], description="before")
    path = f"/v1/webhooks/{made['id']}"

    async def change(**body: Any) -> dict[str, Any]:
        answer = await world.client.patch(path, json=body, headers=owner)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    assert (await change(description="after"))["events"] == ["api_key.revoked"]
    assert (await change(events=None))["events"] is None
    assert (await change(url="http://127.0.0.1:9/other"))["url"] == "http://127.0.0.1:9/other"
    off = await change(enabled=False)
    assert (off["status"], off["disabled_because"]) == ("disabled", "asked")
    assert problem(await world.client.post(f"{path}/test", headers=owner)) == (409, "webhook-disabled")
    on = await change(enabled=True)
    assert (on["status"], on["disabled_because"], on["disabled_at"]) == ("enabled", None, None)
    before = await actions(world, tenant.id)
    await change(description="after", enabled=True)
    assert await actions(world, tenant.id) == before, "what changes nothing is no change"


async def test_g1_the_audit_log_tells_of_each_change_without_the_urls_path(world: World) -> None:
    tenant, owner = await owner_of(world)
    made = await created(world, owner)
    path = f"/v1/webhooks/{made['id']}"
    await world.client.patch(path, json={"description": "new"}, headers=owner)
    await world.client.post(f"{path}/rotate-secret", json={}, headers=owner)
    test = await world.client.post(f"{path}/test", headers=owner)
    await world.client.post(f"{path}/deliveries/{test.json()['id']}/redeliver", headers=owner)
    await world.client.delete(path, headers=owner)
    records = [each for each in await trail(world, tenant.id) if each.entry.action.startswith("webhook.")]
    assert [each.entry.action.value for each in records] == [
        "webhook.created",
        "webhook.updated",
        "webhook.rotated",
        "webhook.tested",
        "webhook.redelivered",
        "webhook.deleted",
    ]
    assert {each.entry.target_id for each in records} == {made["id"]}
    assert "T0KEN" not in str(records)
    assert "sig=abc" not in str(records)


async def test_a_reader_sees_where_messages_go_but_not_the_secret_part_of_the_url(world: World) -> None:
    tenant, owner = await owner_of(world)
    made = await created(world, owner)
    viewer = await world.log_in(await world.member(tenant, Role.BILLING))
    key = await world.key(tenant, scopes=frozenset({Scope.USAGE_READ}))
    for headers in (viewer, key.headers):
        [listed] = (await world.client.get("/v1/webhooks", headers=headers)).json()["data"]
        read = (await world.client.get(f"/v1/webhooks/{made['id']}", headers=headers)).json()
        assert listed["url"] == read["url"] == "http://127.0.0.1:9/…"


async def test_a_secret_is_replaced_and_a_second_time_only_after_the_overlap(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    _, owner = await owner_of(world)
    made = await created(world, owner)
    path = f"/v1/webhooks/{made['id']}/rotate-secret"
    answer = await world.client.post(path, json={"overlap_seconds": 600}, headers=owner)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["secret"] != made["secret"]
    assert answer.json()["previous_secret_until"] is not None
    assert problem(await world.client.post(path, json={}, headers=owner)) == (409, "rotation-in-progress")
    world.clock.advance(601)
    assert (await world.client.post(path, json={"overlap_seconds": 0}, headers=owner)).status_code == 200
    at_once = await world.client.post(path, json={"overlap_seconds": 0}, headers=owner)
    assert at_once.json()["previous_secret_until"] is None


async def test_the_same_idempotency_key_makes_one_endpoint(world: World) -> None:
    _, owner = await owner_of(world)
    headers = {**owner, "Idempotency-Key": "hook-1"}
    first, second = await create(world, headers), await create(world, headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert len((await world.client.get("/v1/webhooks", headers=owner)).json()["data"]) == 1
    other = await create(world, headers, description="other")
    assert problem(other) == (422, "idempotency-key-reused")


async def test_a_stored_answer_is_given_again_whatever_has_become_of_the_url(world: World) -> None:
    _, owner = await owner_of(world)
    headers = {**owner, "Idempotency-Key": "hook-2"}
    first = await create(world, headers)
    world.app.dependency_overrides[get_outbound] = Unwilling
    try:
        again = await create(world, headers)
        refused = await create(world, owner)
    finally:
        del world.app.dependency_overrides[get_outbound]
    assert again.json() == first.json()
    assert problem(refused) == (422, "url-not-allowed")


async def test_409_more_endpoints_than_a_tenant_may_have(world: World) -> None:
    _, owner = await owner_of(world)
    for _ in range(20):
        await created(world, owner)
    assert problem(await create(world, owner)) == (409, "webhook-limit-reached")
    listed = (await world.client.get("/v1/webhooks?limit=15", headers=owner)).json()
    assert (len(listed["data"]), listed["has_more"]) == (15, True)
    rest = await world.client.get(f"/v1/webhooks?cursor={listed['next_cursor']}", headers=owner)
    assert len(rest.json()["data"]) == 5


async def test_a_deleted_endpoint_is_gone_with_its_deliveries(world: World) -> None:
    tenant, owner = await owner_of(world)
    made = await created(world, owner)
    path = f"/v1/webhooks/{made['id']}"
    assert (await world.client.post(f"{path}/test", headers=owner)).status_code == 202
    assert (await world.client.delete(path, headers=owner)).status_code == 204
    for answer in (
        await world.client.get(path, headers=owner),
        await world.client.get(f"{path}/deliveries", headers=owner),
        await world.client.delete(path, headers=owner),
    ):
        assert problem(answer) == (404, "not-found")
    assert world.rows("SELECT 1 FROM webhook_deliveries WHERE tenant_id = :tenant", tenant=tenant.id) == []


async def test_a_revoked_key_is_announced_to_who_wants_to_know(world: World) -> None:
    tenant, owner = await owner_of(world)
    wanting, other = await created(world, owner), await created(world, owner, events=["period.closed"])
    key = await world.key(tenant)
    for _ in range(2):
        await world.client.post(f"/v1/api-keys/{key.id}/revoke", headers=owner)
    [delivery] = (await world.client.get(f"/v1/webhooks/{wanting['id']}/deliveries", headers=owner)).json()["data"]
    assert delivery["event"] == "api_key.revoked"
    assert delivery["payload"]["data"]["key_id"] == key.id
    assert delivery["payload"]["id"] == delivery["message_id"]
    assert key.secret not in str(delivery)
    assert (await world.client.get(f"/v1/webhooks/{other['id']}/deliveries", headers=owner)).json()["data"] == []


async def test_deliveries_come_in_pages(world: World) -> None:
    _, owner = await owner_of(world)
    made = await created(world, owner)
    path = f"/v1/webhooks/{made['id']}"
    ids = [(await world.client.post(f"{path}/test", headers=owner)).json()["id"] for _ in range(3)]
    first = (await world.client.get(f"{path}/deliveries?limit=2", headers=owner)).json()
    second = (await world.client.get(f"{path}/deliveries?cursor={first['next_cursor']}", headers=owner)).json()
    assert sorted(each["id"] for each in [*first["data"], *second["data"]]) == sorted(ids)
    other = await created(world, owner)
    wrong = await world.client.get(
        f"/v1/webhooks/{other['id']}/deliveries?cursor={first['next_cursor']}", headers=owner
    )
    assert pointers(wrong) == ["/query/cursor"]
