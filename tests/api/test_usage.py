"""Usage over HTTP, in both shapes: every total is what was called, and every event is there once."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import Response

from backend.domain.api_keys import Environment
from backend.domain.scopes import Role, Scope
from tests.api.conftest import IRIS, PASSWORD, ClockedWorld, Key, TenantUnderTest, World
from tests.api.test_predictions import DIABETES, pointers, problem

pytestmark = pytest.mark.anyio

ROWS = [[5.0 + index / 100, 3.5, 1.4, 0.2] for index in range(20)]
NOTHING = {"events": 0, "units": 0, "cached_units": 0, "billable_units": 0}


async def summary(world: World, key: Key, **query: str) -> dict[str, Any]:
    answer = await world.client.get("/v1/usage/summary", params=query, headers=key.headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def events(world: World, key: Key, **query: Any) -> Response:
    answer = await world.client.get("/v1/usage/events", params=query, headers=key.headers)
    assert answer.status_code == 200, answer.text
    return answer


def totals(line: dict[str, Any]) -> tuple[int, int, int, int]:
    return line["events"], line["units"], line["cached_units"], line["billable_units"]


def month(instant: datetime) -> datetime:
    return instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def written(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


# Totals


async def test_a_summary_is_what_was_called_live_and_test_apart_and_cached_rows_shown(world: World) -> None:
    tenant = await world.tenant()
    assert (await summary(world, tenant.live))["totals"] == NOTHING
    await world.predict(tenant.live, ROWS[:3])
    await world.predict(tenant.live, ROWS[:5])
    await world.predict(tenant.live, [DIABETES], model="diabetes")
    await world.predict(tenant.test, ROWS[:2])
    await world.predict(tenant.test, ROWS[:2])
    await world.predict(tenant.live, [["x"]])
    found = await summary(world, tenant.live, group_by="environment,model")
    assert found["group_by"] == ["environment", "model"]
    assert {(line["environment"], line["model"]): totals(line) for line in found["data"]} == {
        ("live", "iris"): (2, 8, 3, 5),
        ("live", "diabetes"): (1, 1, 0, 1),
        ("test", "iris"): (2, 4, 2, 0),
    }
    assert totals(found["totals"]) == (5, 13, 5, 6)


async def test_the_lines_add_up_to_the_events(world: World) -> None:
    tenant = await world.tenant()
    second = await world.key(tenant)
    for count, key in enumerate((tenant.live, tenant.test, second, second, tenant.live), start=1):
        await world.predict(key, ROWS[:count])
    listed = await world.events(tenant)
    for groups in ("", "model", "key", "environment", "model,key", "key,environment,model"):
        found = await summary(world, tenant.live, group_by=groups)
        for name in NOTHING:
            added = sum(line[name] for line in found["data"])
            assert added == found["totals"][name], (groups, name)
            if name != "events":
                assert added == sum(event[name] for event in listed), (groups, name)
        assert found["totals"]["events"] == len(listed)


async def test_groups_name_the_key_the_model_and_the_environment_that_were_asked_for(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    await world.predict(tenant.test)
    by_key = await summary(world, tenant.live, group_by="key")
    assert {line["key_id"] for line in by_key["data"]} == {tenant.live.id, tenant.test.id}
    assert {(line["model"], line["environment"]) for line in by_key["data"]} == {(None, None)}
    everything = await summary(world, tenant.live, group_by="model,key,environment")
    assert {(line["model"], line["key_id"], line["environment"]) for line in everything["data"]} == {
        ("iris", tenant.live.id, "live"),
        ("iris", tenant.test.id, "test"),
    }


async def test_a_group_named_twice_is_one_group(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    assert (await summary(world, tenant.live, group_by="model,model,"))["group_by"] == ["model"]


async def test_calls_with_an_access_token_are_the_users(world: World) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(tenant.owner_email)
    await world.client.post("/v1/predict", json={"model": "iris", "inputs": IRIS}, headers=headers)
    [line] = (await summary(world, tenant.live, group_by="key"))["data"]
    me = (await world.client.get("/v1/me", headers=headers)).json()
    assert line["key_id"] == me["id"]


async def test_by_default_a_summary_goes_from_the_first_of_the_month_until_now(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    clock = clocked_world.clock
    await clocked_world.predict(tenant.live, ROWS[:1])
    clock.set(month(month(clock.now()) + timedelta(days=32)) + timedelta(hours=1))
    await clocked_world.predict(tenant.live, ROWS[:2])
    found = await summary(clocked_world, tenant.live)
    assert found["bucket"] == "day"
    assert found["from"] == written(month(clock.now()))
    assert found["totals"]["units"] == 2
    assert [line["start"] for line in found["data"]] == [written(month(clock.now()))]


async def at_several_times(world: ClockedWorld, tenant: TenantUnderTest) -> datetime:
    """Predict 1, 2, 3, … rows at different instants of two months; return the first of them, on the hour."""
    clock = world.clock
    start = month(month(clock.now()) + timedelta(days=32)) + timedelta(days=9, hours=10)
    for count, after in enumerate(
        (
            timedelta(0),
            timedelta(minutes=59, seconds=59),
            timedelta(hours=1),
            timedelta(hours=13, minutes=59),
            timedelta(hours=14),
            timedelta(days=31),
        ),
        start=1,
    ):
        clock.set(start + after)
        await world.predict(tenant.live, ROWS[:count])
    return start


@pytest.mark.parametrize(
    ("bucket", "expected"),
    [
        ("hour", [(0, 3), (1, 3), (13, 4), (14, 5), (744, 6)]),
        ("day", [(-10, 10), (14, 5), (734, 6)]),
        ("month", [(-226, 15), (None, 6)]),
    ],
)
async def test_buckets_are_hours_days_and_months_in_utc(
    clocked_world: ClockedWorld, bucket: str, expected: list[tuple[int | None, int]]
) -> None:
    tenant = await clocked_world.tenant()
    start = await at_several_times(clocked_world, tenant)
    query = {"from": written(start - timedelta(hours=1)), "to": written(start + timedelta(days=40)), "bucket": bucket}
    if bucket == "month":
        query["from"] = written(month(start))
    found = await summary(clocked_world, tenant.live, **query)
    following_month = month(month(start) + timedelta(days=32))
    starts = [following_month if hours is None else start + timedelta(hours=hours) for hours, _ in expected]
    assert [line["start"] for line in found["data"]] == [written(each) for each in starts]
    assert [line["units"] for line in found["data"]] == [units for _, units in expected]
    for line in found["data"]:
        began, ended = (datetime.fromisoformat(line[name]) for name in ("start", "end"))
        assert began < ended
        if bucket != "month":
            assert ended - began == timedelta(**{f"{bucket}s": 1})
        else:
            assert ended == month(began + timedelta(days=32))


async def test_from_is_inclusive_and_to_is_not(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    start = await at_several_times(clocked_world, tenant)
    hour = timedelta(hours=1)
    for span, units in (
        ((start, start + hour), 3),
        ((start + timedelta(seconds=1), start + hour), 2),
        ((start, start + hour + timedelta(seconds=1)), 6),
        ((start - hour, start), 0),
    ):
        found = await summary(clocked_world, tenant.live, **{"from": written(span[0]), "to": written(span[1])})
        assert found["totals"]["units"] == units, span
        assert (found["from"], found["to"]) == (written(span[0]), written(span[1]))


async def test_a_bucket_is_complete_once_nothing_can_be_added_to_it(clocked_world: ClockedWorld) -> None:
    tenant = await clocked_world.tenant()
    await clocked_world.predict(tenant.live)

    async def is_complete() -> bool:
        [line] = (await summary(clocked_world, tenant.live, bucket="hour"))["data"]
        complete: bool = line["complete"]
        return complete

    assert await is_complete() is False
    clocked_world.clock.advance(3600)
    clocked_world.clock.advance(300)
    assert await is_complete() is True


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"bucket": "week"}, "/query/bucket"),
        ({"group_by": "tenant"}, "/query/group_by"),
        ({"group_by": "model;key"}, "/query/group_by"),
        ({"from": "yesterday"}, "/query/from"),
        ({"from": "2026-07-01T00:00:00"}, "/query/from"),
        ({"from": "2026-07-01T00:00:00+02:00"}, "/query/from"),
        ({"to": "2026-07-01T00:00:00-05:00"}, "/query/to"),
        ({"from": "2026-07-02T00:00:00Z", "to": "2026-07-01T00:00:00Z"}, "/query/to"),
        ({"from": "2026-07-01T00:00:00Z", "to": "2026-07-01T00:00:00Z"}, "/query/to"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-07-01T00:00:00Z", "bucket": "hour"}, "/query/from"),
        ({"from": "2001-01-01T00:00:00Z", "to": "2026-07-01T00:00:00Z", "bucket": "day"}, "/query/from"),
        ({"from": "0001-01-01T00:00:00Z", "bucket": "month"}, "/query/from"),
        ({"from": "9999-12-31T23:59:59-10:00"}, "/query/from"),
        ({"from": "2026-13-01T00:00:00Z"}, "/query/from"),
    ],
)
async def test_422_a_bad_summary_query_is_pointed_at(world: World, query: dict[str, str], pointer: str) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/usage/summary", params=query, headers=tenant.live.headers)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [pointer]


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-07-01T00:00:00Z", "to": "2026-07-02T00:00:00+00:00"},
        {"from": "2026-07-01T00:00:00-00:00", "to": "9999-12-31T23:59:59Z", "bucket": "month"},
    ],
)
async def test_utc_may_be_written_in_any_way(world: World, query: dict[str, str]) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/usage/summary", params=query, headers=tenant.live.headers)
    assert answer.status_code in {200, 422}
    if answer.status_code == 422:
        assert "too far back" in answer.text


# Events


async def test_an_event_holds_the_fields_of_the_contract(world: World) -> None:
    tenant = await world.tenant("free")
    answer = await world.predict(tenant.live, ROWS[:2], headers={"X-Request-Id": "my-request"})
    [event] = await world.events(tenant)
    assert event.pop("occurred_at") <= event.pop("stored_at")
    plan_id = event.pop("plan_id")
    assert plan_id.startswith("pln_")
    assert event == {
        "id": answer.json()["id"],
        "tenant_id": tenant.id,
        "period": datetime.now(UTC).strftime("%Y-%m"),
        "key_id": tenant.live.id,
        "environment": "live",
        "model": "iris",
        "version": "1",
        "units": 2,
        "cached_units": 0,
        "billable_units": 2,
        "reason": "live",
        "plan_version": 1,
        "request_id": "my-request",
    }


async def test_events_come_page_by_page_in_one_order_each_once(world: World) -> None:
    tenant = await world.tenant()
    made = [(await world.predict(tenant.live, ROWS[:count])).json()["id"] for count in (1, 2, 3, 4, 5)]
    await world.events(tenant)  # Waits until all of them are below the watermark.
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = (await events(world, tenant.live, **query)).json()
        seen += [event["id"] for event in page["data"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        assert len(page["data"]) == 2
        query["cursor"] = page["next_cursor"]
    assert seen == made


async def test_a_reader_that_goes_on_from_its_cursor_misses_nothing_that_came_meanwhile(world: World) -> None:
    tenant = await world.tenant()
    first = [(await world.predict(tenant.live, ROWS[:count])).json()["id"] for count in (1, 2, 3)]
    await world.events(tenant)
    page = (await events(world, tenant.live, limit=2)).json()
    later = (await world.predict(tenant.live, ROWS[:4])).json()["id"]
    await world.events(tenant)
    rest = (await events(world, tenant.live, cursor=page["next_cursor"])).json()
    assert [event["id"] for event in page["data"] + rest["data"]] == [*first, later]


async def test_every_page_says_up_to_where_it_is_final(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    await world.events(tenant)
    for form in ("json", "ndjson"):
        assert (await events(world, tenant.live, format=form)).headers["x-usage-watermark"]


async def test_events_are_filtered_by_period_key_and_model(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live, ROWS[:1])
    await world.predict(tenant.test, ROWS[:2])
    await world.predict(tenant.live, [DIABETES] * 3, model="diabetes")
    await world.events(tenant)
    period = datetime.now(UTC).strftime("%Y-%m")

    async def units(**query: str) -> list[int]:
        return [event["units"] for event in (await events(world, tenant.live, **query)).json()["data"]]

    assert await units() == [1, 2, 3]
    assert await units(key_id=tenant.live.id) == [1, 3]
    assert await units(model="iris") == [1, 2]
    assert await units(model="iris", key_id=tenant.test.id) == [2]
    assert await units(period=period) == [1, 2, 3]
    assert await units(period="2020-01") == []
    assert await units(key_id="key_nobodys") == []


async def test_ndjson_holds_the_same_events_one_a_line(world: World) -> None:
    tenant = await world.tenant()
    for count in (1, 2, 3):
        await world.predict(tenant.live, ROWS[:count])
    listed = await world.events(tenant)
    answer = await events(world, tenant.live, format="ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("}\n")
    assert [json.loads(line) for line in answer.text.splitlines()] == listed
    assert "x-next-cursor" not in answer.headers
    first = await events(world, tenant.live, format="ndjson", limit=2)
    rest = await events(world, tenant.live, format="ndjson", cursor=first.headers["x-next-cursor"])
    assert first.text + rest.text == answer.text


async def test_ndjson_of_nothing_is_empty(world: World) -> None:
    tenant = await world.tenant()
    assert (await events(world, tenant.live, format="ndjson")).text == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("period", "2026"),
        ("period", "2026-13"),
        ("period", "2026-00"),
        ("period", "2026-07-01"),
        ("period", "' OR 1=1"),
        ("format", "csv"),
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "many"),
        ("cursor", "x"),
        ("cursor", "A" * 501),
        ("key_id", "k" * 65),
        ("model", "m" * 131),
    ],
)
async def test_422_a_bad_events_query_is_pointed_at(world: World, name: str, value: str) -> None:
    tenant = await world.tenant()
    answer = await world.client.get("/v1/usage/events", params={name: value}, headers=tenant.live.headers)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == [f"/query/{name}"]


async def test_a_cursor_is_good_for_its_own_tenant_and_filter_only(world: World) -> None:
    tenant, other = await world.tenant(), await world.tenant()
    for count in (1, 2, 3):
        await world.predict(tenant.live, ROWS[:count])
    await world.events(tenant)
    cursor = (await events(world, tenant.live, limit=1)).json()["next_cursor"]
    assert (await events(world, tenant.live, cursor=cursor)).json()["data"]
    last = "B" if cursor[0] == "A" else "A"
    attempts: list[tuple[Key, dict[str, str]]] = [
        (tenant.live, {"cursor": last + cursor[1:]}),
        (tenant.live, {"cursor": cursor, "model": "iris"}),
        (tenant.live, {"cursor": cursor, "key_id": tenant.live.id}),
        (tenant.live, {"cursor": cursor, "period": "2026-07"}),
        (other.live, {"cursor": cursor}),
    ]
    for key, query in attempts:
        answer = await world.client.get("/v1/usage/events", params=query, headers=key.headers)
        assert problem(answer) == (422, "validation-failed"), query
        assert pointers(answer) == ["/query/cursor"]


# Who may see it


async def test_a1_nobody_sees_another_tenants_usage(world: World) -> None:
    mine, theirs = await world.tenant(), await world.tenant()
    await world.predict(theirs.live, ROWS[:5])
    await world.events(theirs)
    for query in ({}, {"key_id": theirs.live.id}, {"tenant_id": theirs.id}, {"tenant": theirs.slug}):
        assert (await events(world, mine.live, **query)).json()["data"] == [], query
    assert (await summary(world, mine.live, group_by="key"))["data"] == []


@pytest.mark.parametrize("path", ["/v1/usage/events", "/v1/usage/summary"])
async def test_403_insufficient_scope(world: World, path: str) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=frozenset({Scope.PREDICT, Scope.MODELS_READ}))
    assert problem(await world.client.get(path, headers=key.headers)) == (403, "insufficient-scope")
    narrow = await world.token(username=tenant.owner_email, password=PASSWORD, scope="keys:read")
    headers = {"Authorization": f"Bearer {narrow.json()['access_token']}"}
    assert problem(await world.client.get(path, headers=headers)) == (403, "insufficient-scope")


@pytest.mark.parametrize("path", ["/v1/usage/events", "/v1/usage/summary"])
async def test_every_role_may_see_its_tenants_usage(world: World, path: str) -> None:
    tenant = await world.tenant()
    for role in Role:
        headers = await world.log_in(await world.member(tenant, role))
        assert (await world.client.get(path, headers=headers)).status_code == 200, role


async def test_a_test_key_may_read_usage_like_a_live_one(world: World) -> None:
    tenant = await world.tenant()
    await world.predict(tenant.live)
    key = await world.key(tenant, Environment.TEST)
    assert (await summary(world, key))["totals"]["units"] == 1
