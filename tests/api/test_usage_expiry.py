"""Usage that is not kept any more, over HTTP in both shapes: its events are gone, what they came to is not."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from httpx import Response

from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_months import SqlUsageMonths
from backend.adapters.db.usage_retention import SqlUsageRetention
from backend.domain.billing_periods import period_end
from backend.domain.ids import new_id
from backend.domain.limits import period_of
from backend.domain.scopes import PlatformRole, Scope
from tests.api.conftest import (
    ClockedWorld,
    Key,
    TenantUnderTest,
    World,
    embedded_settings,
    running,
    stores_asked_for,
)
from tests.api.operators import platform_program
from tests.api.test_predictions import pointers, problem
from tests.contracts.ledgers import an_event
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0
EVENTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A tenant with usage in two months, the first of which has expired; and what was answered before it did."""

    world: World
    tenant: TenantUnderTest
    key: Key
    biller: dict[str, str]
    served_at: datetime
    expired: str
    kept: str
    cursor: str
    before: dict[str, Response]

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Response:
        asking = {**self.key.headers, **(headers or {})}
        return await self.world.client.get(f"/v1/usage/{path}", params=query, headers=asking)

    async def get_as_biller(self, path: str, **query: Any) -> Response:
        return await self.world.client.get(f"/v1/usage/{path}", params=query, headers=self.biller)


def a_few_months_ago() -> datetime:
    """Return a noon long enough ago: PostgreSQL itself lets nothing expire that is younger than its clock says."""
    first = datetime.now(UTC).replace(day=1, hour=12, minute=0, second=0, microsecond=0)
    for _ in range(4):
        first = (first - timedelta(days=1)).replace(day=1)
    return first.replace(day=10)


@pytest.fixture(scope="module", params=["embedded", "server"])
async def past(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Past]:
    """An application of its own: what expires is everybody's."""
    clock = FakeClock(a_few_months_ago())
    settings = embedded_settings(tmp_path_factory.mktemp("expiry"), **stores_asked_for(request, "expiry"))
    async with running(settings, f"expiry-{request.param}", clock) as world:
        yield await expired_in(ClockedWorld(world, clock))


def database_of(world: World) -> Database:
    assert isinstance(world.resources.store, Database)
    return world.resources.store


async def expired_in(world: ClockedWorld) -> Past:
    database, clock = database_of(world), world.clock
    await SqlUsageMonths(database, clock).make()
    tenant = await world.tenant("pro")
    scopes = frozenset({Scope.USAGE_READ, Scope.USAGE_EXPORT})
    key, served_at = await world.key(tenant, scopes=scopes), clock.now()
    await book(world, tenant)
    clock.set(period_end(period_of(clock.now_s())) + timedelta(days=9))
    kept = period_of(clock.now_s())
    await book(world, tenant)
    expired = period_of(served_at.timestamp())
    past = Past(
        world=world,
        tenant=tenant,
        key=key,
        biller=await close(world, tenant, expired),
        served_at=served_at,
        expired=expired,
        kept=kept,
        cursor=await a_cursor(world, key, expired),
        before={},
    )
    await fold(world, tenant)
    past.before.update({path: await past.get(path, **query) for path, query in what_stays(past)})
    clock.set(period_end(kept) + timedelta(hours=1))
    assert await SqlUsageRetention(database.engine, clock, keep_months=1).expire() == 1
    # Whoever signed in a month ago has to do so again.
    past.biller.update(await a_biller(world))
    return past


async def book(world: ClockedWorld, tenant: TenantUnderTest) -> None:
    """Book usage at the world's instant, an hour apart."""
    [(plan_id,)] = world.rows("SELECT plan_id FROM subscriptions WHERE tenant_id = :tenant", tenant=tenant.id)
    for hour in range(EVENTS):
        at = world.clock.now() + timedelta(hours=hour, minutes=10)
        event = an_event(tenant.id, occurred_at=at, id=new_id("evt", at_s=at.timestamp()), plan_id=plan_id)
        await world.resources.ledger.append(tenant.id, event)


async def a_biller(world: World) -> dict[str, str]:
    return await platform_program(world, PlatformRole.BILLING_READER)


async def close(world: ClockedWorld, tenant: TenantUnderTest, period: str) -> dict[str, str]:
    """Close a month, whose usage never went through the quota; return who did."""
    biller = await a_biller(world)
    body = {"tenant_id": tenant.id, "accept_difference": "booked by a test"}
    with anyio.fail_after(WITHIN_S):
        while True:
            answer = await world.client.post(f"/v1/usage/periods/{period}/close", json=body, headers=biller)
            if answer.status_code == 202:
                return biller
            assert problem(answer) == (409, "watermark-behind")
            await anyio.sleep(0.01)


async def a_cursor(world: World, key: Key, period: str) -> str:
    query: dict[str, Any] = {"period": period, "limit": 1}
    answer = await world.client.get("/v1/usage/events", params=query, headers=key.headers)
    return str(answer.json()["next_cursor"])


async def fold(world: World, tenant: TenantUnderTest) -> None:
    rollups = SqlUsageRollups(database_of(world))
    query = "SELECT coalesce(sum(events), 0) FROM usage_rollups WHERE tenant_id = :tenant"
    with anyio.fail_after(WITHIN_S):
        while world.rows(query, tenant=tenant.id) != [(2 * EVENTS,)]:
            await rollups.fold_of_all_tenants()


def span(past: Past, *, start: timedelta = timedelta(0), end: timedelta = timedelta(0)) -> dict[str, Any]:
    """Return a summary's query of the hours in which the expired month was used, moved at either end."""
    ends = (past.served_at + start, past.served_at + timedelta(hours=EVENTS) + end)
    return dict(zip(("from", "to"), (f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in ends), strict=True))


def what_stays(past: Past) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"periods/{past.expired}", {}),
        (f"periods/{past.expired}/reconciliation", {}),
        ("statement", {"period": past.expired}),
        ("adjustments", {"period": past.expired}),
        ("summary", {**span(past), "bucket": "hour", "group_by": "model,key,environment"}),
    ]


def require_expired(answer: Response) -> None:
    assert problem(answer) == (410, "usage-expired")
    body = answer.json()
    assert body["title"] == "Usage expired"
    assert "totals and its statement" in body["detail"]
    assert body["instance"].endswith(body["request_id"])
    assert answer.headers["cache-control"] == "no-store"
    # Nothing that describes the file which is not sent.
    assert not {"etag", "digest", "content-disposition", "accept-ranges"} & set(answer.headers)


@pytest.mark.parametrize("form", ["json", "ndjson"])
async def test_410_events_of_an_expired_month(past: Past, form: str) -> None:
    queries: list[dict[str, Any]] = [{}, {"cursor": past.cursor}, {"limit": 1}, {"key_id": "key_a"}, {"model": "none"}]
    for query in queries:
        require_expired(await past.get("events", period=past.expired, format=form, **query))
    require_expired(await past.get_as_biller("events", period=past.expired, format=form))


async def test_events_of_other_months_are_read_as_ever(past: Past) -> None:
    queries: list[dict[str, Any]] = [{}, {"period": past.kept}]
    for query in queries:
        for answer in (await past.get("events", **query), await past.get_as_biller("events", **query)):
            assert answer.status_code == 200
            assert [event["period"] for event in answer.json()["data"]] == [past.kept] * EVENTS


async def test_a_tenant_without_usage_in_that_month_has_none_that_expired(past: Past) -> None:
    other = await past.world.tenant("pro")
    answer = await past.world.client.get(
        "/v1/usage/events", params={"period": past.expired}, headers=other.live.headers
    )
    assert (answer.status_code, answer.json()["data"]) == (200, [])


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_410_the_export_of_an_expired_month(past: Past, form: str) -> None:
    etag = past.before[f"periods/{past.expired}"].headers["etag"]
    headers: dict[str, str]
    for headers in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": etag}, {"If-None-Match": "*"}):
        require_expired(await past.get("export", headers, period=past.expired, format=form))
    require_expired(await past.get_as_biller("export", period=past.expired, format=form, tenant_id=past.tenant.id))


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_409_the_export_of_the_month_after_it_waits_for_its_close(past: Past, form: str) -> None:
    assert problem(await past.get("export", period=past.kept, format=form)) == (409, "period-open")


@pytest.mark.parametrize("end", ["from", "to"])
async def test_410_a_summary_that_cuts_an_expired_hour_is_pointed_at(past: Past, end: str) -> None:
    cut = {"start" if end == "from" else "end": timedelta(minutes=30)}
    answer = await past.get("summary", **span(past, **cut))
    require_expired(answer)
    assert pointers(answer) == [f"/query/{end}"]


async def test_a_summary_of_whole_hours_is_exact_across_the_months(past: Past) -> None:
    until = f"{period_end(past.kept):%Y-%m-%dT%H:%M:%SZ}"
    answer = await past.get("summary", **{**span(past), "to": until, "bucket": "month"})
    assert answer.status_code == 200
    assert [line["events"] for line in answer.json()["data"]] == [EVENTS, EVENTS]
    assert answer.json()["totals"]["units"] == 2 * 2 * EVENTS


async def test_what_an_expired_month_came_to_is_answered_as_before(past: Past) -> None:
    for path, query in what_stays(past):
        before, after = past.before[path], await past.get(path, **query)
        assert before.status_code == 200, before.text
        assert (after.status_code, after.json(), after.headers.get("etag")) == (
            200,
            before.json(),
            before.headers.get("etag"),
        ), path
    totals = past.before[f"periods/{past.expired}"].json()
    assert (totals["state"], totals["events"], totals["units"]) == ("closed", EVENTS, 2 * EVENTS)
    statement = past.before["statement"]
    assert statement.json()["total_micros"] == totals["amount_micros"]
    etag = {"If-None-Match": statement.headers["etag"]}
    assert (await past.get("statement", etag, period=past.expired)).status_code == 304
    states = {each["period"]: each["state"] for each in (await past.get("periods")).json()["data"]}
    assert states[past.expired] == "closed"
