"""Usage alerts: each threshold is told once a period, from the ledger's own sums, in both shapes."""

import asyncio
from typing import Any

import anyio
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.usage_totals import SqlUsageTotals
from backend.adapters.memory.metrics import NullMetrics
from backend.domain.api_keys import Environment
from backend.domain.errors import StoreUnavailable
from backend.domain.limits import period_of
from backend.domain.scopes import Role
from backend.services.usage_alerts import EVERYBODY_EVERY, UsageAlertService
from tests.api.conftest import ClockedWorld, Key, TenantUnderTest
from tests.api.mailbox import letters_to
from tests.contracts.ledgers import an_event

pytestmark = pytest.mark.anyio


class Meter:
    """A tenant on the free plan (1,000 rows a month, hard), what it uses, and what it is told."""

    def __init__(self, world: ClockedWorld, tenant: TenantUnderTest) -> None:
        self.world = world
        self.tenant = tenant
        self.path = ""

    @property
    def service(self) -> UsageAlertService:
        """A worker that has just started."""
        store: Any = self.world.resources.store
        return UsageAlertService(
            store=store, totals=SqlUsageTotals(store), outbox=self.world.resources.outbox, clock=self.world.clock
        )

    async def use(self, units: int, *, key: Key | None = None, environment: Environment = Environment.LIVE) -> None:
        store: Any = self.world.resources.store
        ledger = GroupCommitLedger(store, metrics=NullMetrics())
        ledger.start()
        event = an_event(
            self.tenant.id,
            occurred_at=self.world.clock.now(),
            credential_id=(key or self.tenant.live).id,
            environment=environment,
            units=units,
            cached_units=0,
            billable_units=units,
        )
        await ledger.append(self.tenant.id, event)
        await ledger.aclose()

    async def look(self, service: UsageAlertService | None = None, *, until: int = 0) -> None:
        """Look once, or until so many alerts are told: others' open transactions may hold the watermark back."""
        service = service or self.service
        await service.check()
        while len(await self.told()) < until:
            await service.check()

    async def send(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        owner = await self.world.log_in(self.tenant.owner_email)
        answer = await self.world.client.request(method, path, json=body, headers=owner)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def told(self) -> list[dict[str, Any]]:
        """Return what the webhook is told, oldest first."""
        deliveries = (await self.send("GET", f"{self.path}/deliveries?limit=100"))["data"]
        return [each["payload"]["data"] for each in reversed(deliveries)]

    async def thresholds(self) -> list[int]:
        return sorted(each["threshold_percent"] for each in await self.told())

    async def letters(self, address: str | None = None) -> list[str]:
        found = await letters_to(self.world, address or self.tenant.owner_email)
        return [each.subject for each in found if "quota" in each.subject]


async def a_meter(world: ClockedWorld, plan: str = "free") -> Meter:
    meter = Meter(world, await world.tenant(plan))
    made = await meter.send(
        "POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/", "events": ["usage.threshold_reached"]}
    )
    meter.path = f"/v1/webhooks/{made['id']}"
    return meter


async def test_a_threshold_is_told_once_however_often_and_by_whomever_it_is_seen(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    await meter.use(499)
    await meter.look()
    assert await meter.told() == []
    await meter.use(1)
    await meter.look(until=1)
    period = period_of(clocked_world.clock.now_s())
    assert await meter.told() == [
        {
            "period": period,
            "environment": "live",
            "scope": "tenant",
            "key_id": None,
            "threshold_percent": 50,
            "used": 500,
            "limit": 1000,
            "mode": "hard",
        }
    ]
    service = meter.service
    for _ in range(2):
        await meter.look(service)
    await meter.use(10)
    await meter.look(service)
    await meter.look()
    assert await meter.thresholds() == [50]
    assert len(await meter.letters()) == 1


async def test_a_jump_over_two_tells_both_and_writes_one_letter_of_the_higher(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    billing = await clocked_world.member(meter.tenant, Role.BILLING)
    viewer = await clocked_world.member(meter.tenant, Role.VIEWER)
    await meter.use(850)
    await meter.look(until=2)
    assert await meter.thresholds() == [50, 80]
    for address in (None, billing):
        [subject] = await meter.letters(address)
        assert "80 %" in subject
    assert await meter.letters(viewer) == []
    await meter.use(400)
    await meter.look(until=3)
    assert await meter.thresholds() == [50, 80, 100]


async def test_many_replicas_at_once_tell_each_threshold_once(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    await meter.use(1000)
    await asyncio.gather(*(meter.look() for _ in range(5)))
    await meter.look(until=3)
    assert await meter.thresholds() == [50, 80, 100]
    assert len(await meter.letters()) <= 3, "no threshold is in two letters"


async def test_a_key_with_a_quota_of_its_own_is_told_of_too(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    key = await clocked_world.key(meter.tenant, monthly_quota=10)
    await meter.use(9, key=key)
    await meter.look(until=2)
    told = await meter.told()
    assert {(each["scope"], each["key_id"], each["limit"], each["used"]) for each in told} == {("key", key.id, 10, 9)}
    assert await meter.thresholds() == [50, 80]


async def test_the_quotas_of_all_keys_are_one_question(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    keys = [await clocked_world.key(meter.tenant, monthly_quota=10) for _ in range(4)]
    for key in keys:
        await meter.use(9, key=key)
    await meter.use(9)
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, values: object, *_more: object) -> None:
        if "FROM api_keys" in statement and meter.tenant.id in str(values):
            asked.append(statement)

    store: Any = clocked_world.resources.store
    event.listen(store.engine.sync_engine, "before_cursor_execute", note)
    with anyio.fail_after(30):
        while len(await meter.told()) < 2 * len(keys):
            asked.clear()
            await meter.service.check()
            assert len(asked) <= 1
    assert {each["key_id"] for each in await meter.told()} == {key.id for key in keys}
    assert len(asked) == 1


async def test_a_soft_quota_is_told_of_and_no_quota_is_not(clocked_world: ClockedWorld) -> None:
    soft, endless = await a_meter(clocked_world, "pro"), await a_meter(clocked_world, "enterprise")
    for meter in (soft, endless):
        await meter.use(1_500_000)
    await soft.look(until=3)
    await endless.look()
    assert {each["mode"] for each in await soft.told()} == {"soft"}
    assert await soft.thresholds() == [50, 80, 100]
    assert await endless.told() == []


async def test_a_quota_that_the_tenant_lowered_is_the_one_that_counts(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world, "enterprise")
    await meter.send("PUT", "/v1/limits", {"monthly_quota": 100})
    await meter.use(50)
    await meter.look(until=1)
    assert [(each["limit"], each["mode"], each["threshold_percent"]) for each in await meter.told()] == [
        (100, "hard", 50)
    ]


async def test_a_quota_that_is_lowered_below_what_was_used_is_told_of_without_further_use(
    clocked_world: ClockedWorld,
) -> None:
    meter = await a_meter(clocked_world, "enterprise")
    service = meter.service
    await meter.use(60)
    await meter.look(service)
    await meter.send("PUT", "/v1/limits", {"monthly_quota": 100})
    clocked_world.clock.advance(EVERYBODY_EVERY.total_seconds())
    with anyio.fail_after(30):
        await meter.look(service, until=1)
    assert await meter.thresholds() == [50]


async def test_test_keys_have_a_quota_of_their_own(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    await meter.use(499)
    await meter.use(500, key=meter.tenant.test, environment=Environment.TEST)
    await meter.look(until=1)
    assert [(each["environment"], each["threshold_percent"]) for each in await meter.told()] == [("test", 50)]


async def test_a_new_period_begins_anew(clocked_world: ClockedWorld) -> None:
    meter = await a_meter(clocked_world)
    await meter.use(500)
    await meter.look(until=1)
    first = period_of(clocked_world.clock.now_s())
    while period_of(clocked_world.clock.now_s()) == first:
        clocked_world.clock.advance(86_400)
    service = meter.service
    await meter.look(service)
    assert await meter.thresholds() == [50]
    await meter.use(500)
    await meter.look(service, until=2)
    assert [each["threshold_percent"] for each in await meter.told()] == [50, 50]
    assert len({each["period"] for each in await meter.told()}) == 2


async def test_a_transaction_that_fails_tells_nothing_and_the_next_look_does(clocked_world: ClockedWorld) -> None:
    """What is told stands or falls with what is written down, so that neither is ever there alone."""
    meter = await a_meter(clocked_world)
    await meter.use(600)
    clocked_world.change("ALTER TABLE webhook_deliveries RENAME TO webhook_deliveries_away")
    try:
        with pytest.raises((StoreUnavailable, DBAPIError)):
            await meter.service.check()
    finally:
        clocked_world.change("ALTER TABLE webhook_deliveries_away RENAME TO webhook_deliveries")
    rows = "SELECT count(*) FROM usage_alerts WHERE tenant_id = :tenant"
    assert clocked_world.rows(rows, tenant=meter.tenant.id) == [(0,)]
    assert await meter.letters() == []
    await meter.look(until=1)
    assert await meter.thresholds() == [50]
    assert len(await meter.letters()) == 1
