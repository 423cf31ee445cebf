"""Claiming webhook deliveries, and alerts that are told once: on SQLite and on PostgreSQL, by several at a time."""

import asyncio
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.plans import QuotaMode
from backend.domain.tenants import Tenant, TenantStatus
from backend.domain.usage_alerts import QuotaUse, UsageAlert
from backend.domain.webhook_deliveries import KEPT_FOR, LEASE, Attempt, Delivery, DeliveryStatus
from backend.domain.webhooks import WebhookEndpoint, WebhookEvent, WebhookMessage
from backend.services.ports.store import ClaimedDelivery
from tests.contracts.ledgers import Books

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)
LONG_AFTER = NOW + timedelta(days=365)
_numbers = itertools.count(1)


@pytest.fixture
async def database(books: Books) -> Database:
    """The module's database, with nothing due in it."""
    async with books.database.unit_of_work() as unit:
        everything = await unit.webhook_deliveries.claim_due_of_all_tenants(LONG_AFTER, limit=1000, each=1000)
    for each in everything:
        async with books.database.unit_of_work() as unit:
            await unit.webhook_deliveries.store(each.delivery.tenant_id, each.delivery.given_up())
    return books.database


async def an_endpoint(database: Database) -> WebhookEndpoint:
    """Store an endpoint of a new tenant."""
    number = next(_numbers)
    tenant = Tenant(
        id=TenantId(f"ten_hooked_{number}"),
        slug=f"hooked-{number}",
        name="a tenant",
        status=TenantStatus.ACTIVE,
        version=1,
        created_at=NOW,
    )
    endpoint = WebhookEndpoint(
        id=f"whk_{number}",
        tenant_id=tenant.id,
        url="https://hooks.example.com/",
        description="",
        events=(WebhookEvent.PERIOD_CLOSED,),
        sealed_secret=b"sealed",
        previous=None,
        created_by="usr_1",
        created_at=NOW,
    )
    async with database.unit_of_work() as unit:
        await unit.tenants.add(tenant)
        await unit.webhook_endpoints.add(tenant.id, endpoint)
    return endpoint


async def deliveries(database: Database, endpoint: WebhookEndpoint, count: int) -> list[Delivery]:
    """Store deliveries that are due, a second after each other."""
    made = []
    async with database.unit_of_work() as unit:
        for number in range(count):
            at = NOW - timedelta(seconds=count - number)
            message = WebhookMessage.telling(WebhookEvent.PERIOD_CLOSED, {"number": number}, at)
            made.append(Delivery.of(message, endpoint, at))
            await unit.webhook_deliveries.add(endpoint.tenant_id, made[-1])
    return made


async def claim(
    database: Database, *, at: datetime = NOW, limit: int = 100, each: int = 100
) -> tuple[ClaimedDelivery, ...]:
    async with database.unit_of_work() as unit:
        return await unit.webhook_deliveries.claim_due_of_all_tenants(at, limit=limit, each=each)


async def is_due(database: Database, at: datetime = NOW) -> bool:
    async with database.unit_of_work(read_only=True) as unit:
        return await unit.webhook_deliveries.is_any_due_of_all_tenants(at)


async def test_what_is_stored_comes_back(database: Database) -> None:
    endpoint = await an_endpoint(database)
    [delivery] = await deliveries(database, endpoint, 1)
    attempt = Attempt(at=NOW, status=503, failure=None, duration_ms=12, excerpt="busy")
    tried = replace(delivery, attempts=0).after(attempt, retry_after_s=None, jitter=0.25)
    async with database.unit_of_work() as unit:
        assert await unit.webhook_endpoints.get(endpoint.tenant_id, endpoint.id) == endpoint
        assert await unit.webhook_deliveries.get(endpoint.tenant_id, endpoint.id, delivery.id) == delivery
        assert await unit.webhook_deliveries.store(endpoint.tenant_id, tried)
        assert await unit.webhook_deliveries.get(endpoint.tenant_id, endpoint.id, delivery.id) == tried
        assert await unit.webhook_deliveries.get(endpoint.tenant_id, "whk_other", delivery.id) is None


async def test_what_is_claimed_is_nobody_elses_until_the_lease_ends(database: Database) -> None:
    endpoint = await an_endpoint(database)
    [delivery] = await deliveries(database, endpoint, 1)
    assert await is_due(database)
    [claimed] = await claim(database)
    assert claimed.endpoint == endpoint
    assert claimed.delivery == replace(delivery, attempts=1, next_attempt_at=NOW + LEASE)
    assert not await is_due(database)
    assert await claim(database) == ()
    # Whoever claimed it died.
    [again] = await claim(database, at=NOW + LEASE)
    assert (again.delivery.id, again.delivery.attempts) == (delivery.id, 2)


async def test_what_is_not_due_yet_is_left_alone(database: Database) -> None:
    endpoint = await an_endpoint(database)
    await deliveries(database, endpoint, 1)
    assert await claim(database, at=NOW - timedelta(seconds=2)) == ()


async def test_many_at_once_never_claim_the_same(database: Database) -> None:
    endpoints = [await an_endpoint(database) for _ in range(4)]
    made = [each for endpoint in endpoints for each in await deliveries(database, endpoint, 10)]

    async def take_all() -> list[str]:
        found: list[str] = []
        while claimed := await claim(database, limit=3):
            found += [each.delivery.id for each in claimed]
        return found

    taken = await asyncio.gather(*(take_all() for _ in range(6)))
    # A worker whose rows another had locked finds nothing and stops; what it left is the other's.
    rest = await take_all()
    assert sorted(itertools.chain(*taken, rest)) == sorted(each.id for each in made)


async def test_a_busy_endpoint_leaves_room_for_others(database: Database) -> None:
    busy, quiet = await an_endpoint(database), await an_endpoint(database)
    first = await deliveries(database, busy, 20)
    [other] = await deliveries(database, quiet, 1)
    claimed = await claim(database, limit=8, each=4)
    assert [each.delivery.id for each in claimed] == [*(each.id for each in first[:4]), other.id]


async def test_the_result_of_an_attempt_that_was_overtaken_is_not_stored(database: Database) -> None:
    endpoint = await an_endpoint(database)
    await deliveries(database, endpoint, 1)
    [slow] = await claim(database)
    [fast] = await claim(database, at=NOW + LEASE)
    attempt = Attempt(at=NOW, status=200, failure=None, duration_ms=5)
    async with database.unit_of_work() as unit:
        late = slow.delivery.after(replace(attempt, status=500), retry_after_s=None, jitter=0.0)
        assert not await unit.webhook_deliveries.store(endpoint.tenant_id, late)
        done = fast.delivery.after(attempt, retry_after_s=None, jitter=0.0)
        assert await unit.webhook_deliveries.store(endpoint.tenant_id, done)
    assert await claim(database, at=NOW + timedelta(days=30)) == ()


async def test_giving_up_ends_what_waits(database: Database) -> None:
    endpoint, other = await an_endpoint(database), await an_endpoint(database)
    [waiting] = await deliveries(database, endpoint, 1)
    await deliveries(database, other, 1)
    async with database.unit_of_work() as unit:
        assert await unit.webhook_deliveries.give_up_pending(endpoint.tenant_id, endpoint.id) == 1
        found = await unit.webhook_deliveries.get(endpoint.tenant_id, endpoint.id, waiting.id)
    assert found is not None
    assert (found.status, found.next_attempt_at) == (DeliveryStatus.FAILED, None)
    assert [each.endpoint.id for each in await claim(database)] == [other.id]


async def test_only_what_ended_long_ago_is_forgotten(database: Database) -> None:
    endpoint = await an_endpoint(database)
    ended, waiting = await deliveries(database, endpoint, 2)
    async with database.unit_of_work() as unit:
        await unit.webhook_deliveries.store(endpoint.tenant_id, ended.given_up())
        await unit.webhook_deliveries.forget_before_of_all_tenants(ended.created_at)
        assert await unit.webhook_deliveries.get(endpoint.tenant_id, endpoint.id, ended.id) is not None
    async with database.unit_of_work() as unit:
        assert await unit.webhook_deliveries.forget_before_of_all_tenants(NOW + KEPT_FOR) >= 1
        left = await unit.webhook_deliveries.list(endpoint.tenant_id, endpoint.id, after=None, limit=10)
    assert [each.id for each in left] == [waiting.id]


async def test_an_endpoint_goes_with_its_deliveries(database: Database) -> None:
    endpoint = await an_endpoint(database)
    [delivery] = await deliveries(database, endpoint, 1)
    [claimed] = await claim(database)
    async with database.unit_of_work() as unit:
        await unit.webhook_endpoints.delete(endpoint.tenant_id, endpoint.id)
    async with database.unit_of_work() as unit:
        assert await unit.webhook_endpoints.get(endpoint.tenant_id, endpoint.id) is None
        # An attempt that was under way has nowhere to write its result.
        assert not await unit.webhook_deliveries.store(endpoint.tenant_id, claimed.delivery)
        assert await unit.webhook_deliveries.get(endpoint.tenant_id, endpoint.id, delivery.id) is None


def an_alert(tenant_id: TenantId, threshold: int) -> UsageAlert:
    use = QuotaUse(
        period="2026-07",
        environment=Environment.LIVE,
        scope="tenant",
        subject=tenant_id,
        units=90,
        limit=100,
        mode=QuotaMode.HARD,
    )
    return UsageAlert(use=use, threshold=threshold, at=NOW)


async def test_a_threshold_is_reached_once_however_many_see_it(database: Database) -> None:
    tenant_id = (await an_endpoint(database)).tenant_id

    async def tell(threshold: int) -> bool:
        async with database.unit_of_work() as unit:
            return await unit.usage_alerts.add(tenant_id, an_alert(tenant_id, threshold))

    told = await asyncio.gather(*(tell(50) for _ in range(8)))
    assert sorted(told) == [False] * 7 + [True]
    assert await tell(80)
    async with database.unit_of_work(read_only=True) as unit:
        found = await unit.usage_alerts.list(tenant_id, "2026-07")
        assert found == [an_alert(tenant_id, 50), an_alert(tenant_id, 80)]
        assert await unit.usage_alerts.list(tenant_id, "2026-08") == []
