"""Webhooks from the event to the receiver, and what becomes of those that do not arrive, in both shapes."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from backend.domain.webhook_deliveries import DELAYS_S, LEASE
from backend.domain.webhooks import FAILING_FOR
from backend.services.webhook_deliveries import WebhookDeliveryService
from tests.api.conftest import ClockedWorld, TenantUnderTest
from tests.api.mailbox import letters_to
from tests.api.test_predictions import problem
from tests.api.trails import trail
from tests.http_server import HttpServer, Request, answer, http_server

pytestmark = pytest.mark.anyio

DAY_S = 86_400


class Hook:
    """A tenant with an endpoint at a receiver of the test's own, and a worker."""

    def __init__(self, world: ClockedWorld, tenant: TenantUnderTest, receiver: HttpServer) -> None:
        self.world = world
        self.tenant = tenant
        self.receiver = receiver
        self.secret = ""
        self.path = ""

    @property
    def worker(self) -> WebhookDeliveryService:
        """A worker that has just started; any number may be."""
        resources = self.world.resources
        return WebhookDeliveryService(
            store=resources.store,
            outbound=resources.outbound,
            sealer=resources.webhook_sealer,
            outbox=resources.outbox,
            clock=resources.clock,
            metrics=resources.metrics,
        )

    async def owner(self) -> dict[str, str]:
        return await self.world.log_in(self.tenant.owner_email)

    async def open(self, path: str = "/hook") -> None:
        made = await self.send("POST", "/v1/webhooks", {"url": self.receiver.url(path)})
        self.secret, self.path = made["secret"], f"/v1/webhooks/{made['id']}"

    async def send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        got = await self.world.client.request(method, path, json=body, headers=await self.owner())
        assert got.is_success, got.text
        found: dict[str, Any] = got.json()
        return found

    async def happens(self) -> str:
        """Let something happen that the endpoint is told of; return the key that it is about."""
        key = await self.world.key(self.tenant)
        await self.send("POST", f"/v1/api-keys/{key.id}/revoke")
        return key.id

    async def deliveries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.send("GET", f"{self.path}/deliveries?limit=100"))["data"]
        return found

    async def delivery(self) -> dict[str, Any]:
        [found] = await self.deliveries()
        return found

    async def endpoint(self) -> dict[str, Any]:
        return await self.send("GET", self.path)


@pytest.fixture
async def hook(clocked_world: ClockedWorld) -> AsyncIterator[Hook]:
    async with http_server() as receiver:
        hook = Hook(clocked_world, await clocked_world.tenant(), receiver)
        # What other tests left behind is not this one's.
        clocked_world.change("UPDATE webhook_deliveries SET status = 'failed', next_attempt_at = NULL")
        await hook.open()
        yield hook


def verified(request: Request, *secrets: str) -> dict[str, Any]:
    """Verify a message as its receiver does; return its content."""
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = [
        "v1,"
        + base64.b64encode(
            hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        ).decode()
        for secret in secrets
    ]
    assert request.headers["webhook-signature"].split(" ") == expected
    content: dict[str, Any] = json.loads(request.body)
    return content


async def test_what_happens_arrives_signed(hook: Hook) -> None:
    key_id = await hook.happens()
    assert await hook.worker.deliver_due() == 1
    [request] = hook.receiver.received
    content = verified(request, hook.secret)
    assert (content["type"], content["data"]["key_id"]) == ("api_key.revoked", key_id)
    assert request.headers["content-type"] == "application/json"
    assert int(request.headers["webhook-timestamp"]) == int(hook.world.clock.now_s())
    delivery = await hook.delivery()
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 1)
    assert delivery["message_id"] == request.headers["webhook-id"] == content["id"]
    [attempt] = delivery["log"]
    assert (attempt["status_code"], attempt["failure"], attempt["excerpt"]) == (200, None, None)
    assert await hook.worker.deliver_due() == 0


async def test_a_test_message_is_sent_once(hook: Hook) -> None:
    hook.receiver.answers = [answer(500)]
    await hook.send("POST", f"{hook.path}/test")
    assert await hook.worker.deliver_due() == 1
    assert verified(hook.receiver.received[0], hook.secret)["type"] == "webhook.test"
    assert (await hook.delivery())["status"] == "failed"
    assert (await hook.endpoint())["failing_since"] is None
    hook.world.clock.advance(4 * DAY_S)
    assert await hook.worker.deliver_due() == 0


async def test_what_fails_is_tried_again_later_under_the_same_id(hook: Hook) -> None:
    hook.receiver.answers = [answer(500, b"database fc_live_abcdefghijkl_secret is down"), answer(204)]
    await hook.happens()
    await hook.worker.deliver_due()
    delivery = await hook.delivery()
    assert (delivery["status"], delivery["attempts"]) == ("pending", 1)
    assert delivery["log"][0]["excerpt"] == "database [secret] is down"
    assert (await hook.endpoint())["failing_since"] is not None
    assert await hook.worker.deliver_due() == 0, "it waits"
    hook.world.clock.advance(DELAYS_S[0] * 1.2)
    assert await hook.worker.deliver_due() == 1
    first, second = hook.receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    verified(second, hook.secret)
    delivery = await hook.delivery()
    assert (delivery["status"], [each["status_code"] for each in delivery["log"]]) == ("delivered", [500, 204])
    assert (await hook.endpoint())["failing_since"] is None


async def test_the_endpoint_says_for_how_long_it_wants_to_be_left_alone(hook: Hook) -> None:
    hook.receiver.answers = [answer(429, retry_after="7200"), answer(200)]
    await hook.happens()
    await hook.worker.deliver_due()
    hook.world.clock.advance(7199)
    assert await hook.worker.deliver_due() == 0
    hook.world.clock.advance(1)
    assert await hook.worker.deliver_due() == 1
    assert (await hook.delivery())["status"] == "delivered"


async def test_w1_a_redirect_is_a_failure_and_not_followed(hook: Hook) -> None:
    async with http_server() as inside:
        hook.receiver.answers = [answer(307, location=inside.url("/secret"))]
        await hook.happens()
        await hook.worker.deliver_due()
        assert inside.connections == 0
    assert (await hook.delivery())["log"][0]["status_code"] == 307


async def test_nobody_there_is_a_failure_that_is_shown(hook: Hook) -> None:
    await hook.send("PATCH", hook.path, {"url": "http://127.0.0.1:9/"})
    await hook.happens()
    await hook.worker.deliver_due()
    [attempt] = (await hook.delivery())["log"]
    assert (attempt["status_code"], attempt["failure"]) == (None, "unreachable")


async def test_g1_an_endpoint_that_is_gone_is_disabled_and_its_owners_are_told(hook: Hook) -> None:
    hook.receiver.answers = [answer(410)]
    await hook.happens()
    await hook.happens()
    assert await hook.worker.deliver_due() == 2
    endpoint = await hook.endpoint()
    assert (endpoint["status"], endpoint["disabled_because"]) == ("disabled", "gone")
    assert {each["status"] for each in await hook.deliveries()} == {"failed"}
    records = [each.entry for each in await trail(hook.world, hook.tenant.id)]
    [disabled] = [each for each in records if each.action == "webhook.disabled"]
    assert disabled.actor.kind == "system"
    [letter] = [each for each in await letters_to(hook.world, hook.tenant.owner_email) if "webhook" in each.subject]
    assert "410" in letter.text
    assert "/hook" not in letter.text.replace("/v1/webhooks", ""), "only the origin is named"
    await hook.happens()
    assert len(await hook.deliveries()) == 2, "nothing is written for it any more"
    redeliver = f"{hook.path}/deliveries/{(await hook.deliveries())[0]['id']}/redeliver"
    refused = await hook.world.client.post(redeliver, headers=await hook.owner())
    assert problem(refused) == (409, "webhook-disabled")


async def test_an_endpoint_that_fails_for_days_is_disabled_and_can_come_back(hook: Hook) -> None:
    hook.receiver.answers = [answer(503)]
    await hook.happens()
    started_s = hook.world.clock.now_s()
    while (await hook.endpoint())["status"] == "enabled":
        await hook.worker.deliver_due()
        hook.world.clock.advance(3600)
        assert hook.world.clock.now_s() - started_s < 5 * DAY_S
    assert hook.world.clock.now_s() - started_s >= FAILING_FOR.total_seconds()
    assert (await hook.endpoint())["disabled_because"] == "failing"
    assert (await hook.delivery())["attempts"] > 8
    letters = [each for each in await letters_to(hook.world, hook.tenant.owner_email) if "webhook" in each.subject]
    assert len(letters) == 1
    hook.receiver.answers = [answer(200)]
    assert (await hook.send("PATCH", hook.path, {"enabled": True}))["failing_since"] is None
    await hook.send("POST", f"{hook.path}/deliveries/{(await hook.delivery())['id']}/redeliver")
    assert await hook.worker.deliver_due() == 1
    assert (await hook.delivery())["status"] == "delivered"
    assert len({request.headers["webhook-id"] for request in hook.receiver.received}) == 1


async def test_what_was_delivered_can_be_sent_once_more(hook: Hook) -> None:
    await hook.happens()
    await hook.worker.deliver_due()
    again = await hook.send("POST", f"{hook.path}/deliveries/{(await hook.delivery())['id']}/redeliver")
    assert again["status"] == "pending"
    assert await hook.worker.deliver_due() == 1
    first, second = hook.receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_during_a_rotation_either_secret_verifies_and_afterwards_the_new_one(hook: Hook) -> None:
    new = (await hook.send("POST", f"{hook.path}/rotate-secret", {"overlap_seconds": 600}))["secret"]
    await hook.happens()
    await hook.worker.deliver_due()
    verified(hook.receiver.received[0], new, hook.secret)
    hook.world.clock.advance(600)
    await hook.happens()
    await hook.worker.deliver_due()
    verified(hook.receiver.received[1], new)


async def test_many_workers_send_each_message_once(hook: Hook) -> None:
    ids = [await hook.happens() for _ in range(12)]
    made = await asyncio.gather(*(hook.worker.deliver_due() for _ in range(4)))
    # One that another had locked may be left for the next round.
    made.append(await hook.worker.deliver_due())
    assert sum(made) == 12
    told = [json.loads(request.body)["data"]["key_id"] for request in hook.receiver.received]
    assert sorted(told) == sorted(ids)


async def test_a_worker_that_dies_half_way_loses_nothing(hook: Hook) -> None:
    await hook.happens()
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang(_request: Request, _writer: asyncio.StreamWriter) -> None:
        reached.set()
        await never.wait()

    hook.receiver.answers = [hang, answer(200)]
    dying = asyncio.create_task(hook.worker.deliver_due())
    await reached.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert await hook.worker.deliver_due() == 0, "the attempt is still its own"
    hook.world.clock.advance(LEASE.total_seconds())
    assert await hook.worker.deliver_due() == 1
    first, second = hook.receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (await hook.delivery())["status"] == "delivered"


async def test_disabling_gives_up_what_waits(hook: Hook) -> None:
    hook.receiver.answers = [answer(500)]
    await hook.happens()
    await hook.worker.deliver_due()
    await hook.send("PATCH", hook.path, {"enabled": False})
    assert (await hook.delivery())["status"] == "failed"
    hook.world.clock.advance(DAY_S)
    assert await hook.worker.deliver_due() == 0


async def test_deliveries_are_forgotten_after_a_month(hook: Hook) -> None:
    await hook.happens()
    await hook.worker.deliver_due()
    hook.world.clock.advance(timedelta(days=31).total_seconds())
    assert await hook.worker.forget_old() >= 1
    assert await hook.deliveries() == []


async def test_k3_x3_no_log_line_holds_a_secret_or_the_path(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    # `backend.logs` takes only its warnings.
    caplog.set_level(logging.INFO, "aiosqlite")
    caplog.set_level(logging.DEBUG, "httpcore")
    hook.receiver.answers = [answer(500, b"bad\r\nINJECTED: 1"), answer(200)]
    await hook.send("PATCH", hook.path, {"url": hook.receiver.url("/services/T0KEN")})
    await hook.happens()
    await hook.worker.deliver_due()
    hook.world.clock.advance(DAY_S)
    await hook.worker.deliver_due()
    signature = hook.receiver.received[0].headers["webhook-signature"].removeprefix("v1,")
    # The test's own client logs what it asks; it asks "testserver".
    records = [record for record in caplog.records if "testserver" not in record.getMessage()]
    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in records)
    assert "httpcore" in lines, "what the libraries log is looked at"
    for secret in (hook.secret, hook.secret.removeprefix("whsec_"), signature, "T0KEN", "INJECTED"):
        assert secret not in lines
