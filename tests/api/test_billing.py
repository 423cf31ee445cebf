"""Billing over HTTP, in both shapes: periods, exports, statements and adjustments, as those use them who bill."""

import base64
import csv
import hashlib
import io
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from httpx import Response

from backend.domain.audit import OPERATOR, AuditFilter
from backend.domain.billing_periods import period_end
from backend.domain.ids import new_id
from backend.domain.scopes import PlatformRole, Scope
from backend.services.service_accounts import ServiceAccountService
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
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5], [4.9, 3.0, 1.4, 0.2]]


@pytest.fixture(scope="module", params=["embedded", "server"])
async def billing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """An application of its own, whose clock begins now, as that of Redis does, and goes forward."""
    clock = FakeClock(datetime.now(UTC))
    settings = embedded_settings(tmp_path_factory.mktemp("billing"), **stores_asked_for(request, "billing"))
    async with running(settings, f"billing-{request.param}", clock) as world:
        yield ClockedWorld(world, clock)


@dataclass(frozen=True, slots=True)
class Books:
    """A tenant with usage in one month, and who asks about it."""

    world: ClockedWorld
    tenant: TenantUnderTest
    key: Key
    period: str

    async def get(self, path: str, headers: dict[str, str] | None = None, **query: Any) -> Response:
        return await self.world.client.get(
            f"/v1/usage/{path}", params=query, headers={**self.key.headers, **(headers or {})}
        )

    async def close(self, **body: Any) -> Response:
        """Close this tenant's month; others' transactions may hold the watermark back for a moment."""
        end = period_end(self.period) + timedelta(hours=1)
        self.world.clock.set(max(end, self.world.clock.now()))
        biller = await a_biller(self.world)
        with anyio.fail_after(WITHIN_S):
            while True:
                answer = await self.world.client.post(
                    f"/v1/usage/periods/{self.period}/close", json={"tenant_id": self.tenant.id, **body}, headers=biller
                )
                if answer.status_code != 409 or answer.json()["code"] != "watermark-behind":
                    return answer
                await anyio.sleep(0.01)

    async def export(self, form: str = "ndjson", **headers: str) -> Response:
        return await self.get("export", headers, period=self.period, format=form)


async def a_biller(world: World) -> dict[str, str]:
    return await platform_program(world, PlatformRole.BILLING_READER)


async def an_operator(world: World) -> dict[str, str]:
    return await platform_program(world)


async def events_of(world: World, tenant: TenantUnderTest, count: int) -> list[dict[str, Any]]:
    """Return a tenant's events, once as many are below the watermark."""
    with anyio.fail_after(WITHIN_S):
        while True:
            answer = await world.client.get("/v1/usage/events", headers=tenant.live.headers)
            found: list[dict[str, Any]] = answer.json()["data"]
            if len(found) >= count:
                return found
            await anyio.sleep(0.01)


async def a_program(world: World) -> tuple[str, str]:
    """Make a service account that bills, as the operator's command line does; return its id and its secret."""
    resources = world.resources
    async with resources.store.unit_of_work() as unit:
        service = ServiceAccountService(
            unit=unit, hasher=resources.key_hasher, cursors=resources.cursor_codec, clock=resources.clock
        )
        account, secret = await service.create_of_platform(
            OPERATOR, name="billing job", role=PlatformRole.BILLING_READER
        )
    return account.id, secret


async def books_of(world: ClockedWorld, *, plan: str = "pro", requests: int = 3) -> Books:
    """Make a tenant that has used the service over HTTP."""
    tenant = await world.tenant(plan)
    key = await world.key(tenant, scopes=frozenset({Scope.PREDICT, Scope.USAGE_READ, Scope.USAGE_EXPORT}))
    for count in range(requests):
        rows = [[value + secrets.randbelow(1000) / 1000 for value in row] for row in ROWS[: 1 + count % 3]]
        assert (await world.predict(tenant.live, rows)).status_code == 200
    listed = await events_of(world, tenant, requests)
    period = listed[0]["period"] if listed else world.clock.now().strftime("%Y-%m")
    return Books(world, tenant, key, period)


@pytest.fixture
async def books(billing: ClockedWorld) -> Books:
    return await books_of(billing)


@pytest.fixture
async def closed(books: Books) -> Books:
    answer = await books.close()
    assert answer.status_code == 202, answer.text
    return books


def lines(answer: Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def digest(content: bytes) -> str:
    return "sha-256=" + base64.b64encode(hashlib.sha256(content).digest()).decode()


# The billing job


async def test_a_billing_job_does_its_whole_work_over_http(billing: ClockedWorld) -> None:  # noqa: PLR0915  # a job
    books = await books_of(billing, requests=4)
    client, tenant = billing.client, books.tenant
    account_id, secret = await a_program(billing)
    # The month ends, and the grace after it.
    billing.clock.set(max(period_end(books.period) + timedelta(hours=1), billing.clock.now()))
    form = {"client_id": account_id, "client_secret": secret}
    token = (await billing.token(grant_type="client_credentials", **form)).json()
    assert set(token["scope"].split()) == {"usage:all", "billing:close"}
    job = {"Authorization": f"Bearer {token['access_token']}"}

    # Page to the watermark.
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"period": books.period, "limit": 3}
    while True:
        answer = await client.get("/v1/usage/events", params=query, headers=job)
        page = answer.json()
        events += page["data"]
        assert answer.headers["x-usage-watermark"]
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    mine = [event for event in events if event["tenant_id"] == tenant.id]

    # Compare the control totals.
    open_totals = (
        await client.get(f"/v1/usage/periods/{books.period}", params={"tenant_id": tenant.id}, headers=job)
    ).json()
    assert open_totals["state"] == "open"
    assert open_totals["events"] == len(mine) == 4
    assert open_totals["units"] == sum(event["units"] for event in mine)
    assert open_totals["billable_units"] == sum(event["billable_units"] for event in mine)
    compared = await client.get(
        f"/v1/usage/periods/{books.period}/reconciliation", params={"tenant_id": tenant.id}, headers=job
    )
    assert compared.json()["agrees"] is True
    live = next(each for each in compared.json()["data"] if each["environment"] == "live")
    assert live["ledger_units"] == live["settled_units"] == open_totals["units"]

    # Close.
    with anyio.fail_after(WITHIN_S):
        while True:
            answer = await client.post(f"/v1/usage/periods/{books.period}/close", headers=job)
            if answer.status_code != 409 or answer.json()["code"] != "watermark-behind":
                break
            await anyio.sleep(0.01)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "closed"
    period = await client.get(f"/v1/usage/periods/{books.period}", params={"tenant_id": tenant.id}, headers=job)
    totals = period.json()
    assert totals["state"] == "closed"
    assert {name: totals[name] for name in ("events", "units", "billable_units")} == {
        name: open_totals[name] for name in ("events", "units", "billable_units")
    }
    whole = (await client.get(f"/v1/usage/periods/{books.period}", headers=job)).json()
    assert (whole["state"], whole["tenant_id"], whole["tenants"]["open"]) == ("closed", None, 0)

    # Fetch the statement and the records, and verify the digests.
    statement = (
        await client.get("/v1/usage/statement", params={"period": books.period, "tenant_id": tenant.id}, headers=job)
    ).json()
    assert statement["total_micros"] == sum(line["amount_micros"] for line in statement["lines"])
    assert statement["total_micros"] == totals["amount_micros"]
    export = await client.get("/v1/usage/export", params={"period": books.period, "tenant_id": tenant.id}, headers=job)
    assert export.headers["digest"] == digest(export.content)
    *records, trailer = export.content.splitlines(keepends=True)
    assert hashlib.sha256(b"".join(records)).hexdigest() == totals["sha256"] == json.loads(trailer)["sha256"]
    assert [json.loads(record)["id"] for record in records] == [event["id"] for event in mine]

    # And nothing that is not the job's.
    for path in ("/v1/api-keys", "/v1/members", "/v1/admin/tenants", "/v1/audit-log"):
        assert (await client.get(path, headers=job)).status_code == 403, path
    refused = await client.post("/v1/usage/adjustments", json={}, headers=job)
    assert refused.status_code in {403, 422}


# Periods


async def test_r7_a_closed_period_has_a_strong_etag_and_a_digest(closed: Books) -> None:
    answer = await closed.get(f"periods/{closed.period}")
    assert answer.json()["state"] == "closed"
    etag = answer.headers["etag"]
    assert etag.startswith('"')
    assert answer.headers["digest"] == digest(answer.content)
    again = await closed.get(f"periods/{closed.period}")
    assert (again.content, again.headers["etag"]) == (answer.content, etag)
    unchanged = await closed.get(f"periods/{closed.period}", {"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    assert (await closed.get(f"periods/{closed.period}", {"If-None-Match": '"other"'})).status_code == 200


async def test_r7_an_open_period_has_totals_and_no_etag(books: Books) -> None:
    answer = await books.get(f"periods/{books.period}")
    assert "etag" not in answer.headers
    found = answer.json()
    assert (found["state"], found["events"], found["units"], found["sha256"]) == ("open", 3, 6, None)
    assert found["first_position"] != found["last_position"]
    assert found["currency"] == "USD"


async def test_periods_are_listed_newest_first(closed: Books) -> None:
    page = (await closed.get("periods")).json()
    periods = [each["period"] for each in page["data"]]
    assert periods == sorted(periods, reverse=True)
    assert {each["tenant_id"] for each in page["data"]} == {closed.tenant.id}
    assert {each["period"]: each["state"] for each in page["data"]}[closed.period] == "closed"
    first = (await closed.get("periods", limit=1)).json()
    assert first["has_more"] is True
    second = (await closed.get("periods", limit=1, cursor=first["next_cursor"])).json()
    assert [each["data"][0]["period"] for each in (first, second)] == periods[:2]


async def test_the_platform_lists_a_month_of_every_tenant(closed: Books) -> None:
    headers = await a_biller(closed.world)
    query: dict[str, Any] = {"period": closed.period, "limit": 2}
    seen: dict[str, str] = {}
    while True:
        page = (await closed.world.client.get("/v1/usage/periods", params=query, headers=headers)).json()
        seen |= {each["tenant_id"]: each["state"] for each in page["data"]}
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert seen[closed.tenant.id] == "closed"


async def test_r7_409_watermark_behind_while_the_month_is_not_over(books: Books) -> None:
    biller = await a_biller(books.world)
    this_month = books.world.clock.now().strftime("%Y-%m")
    answer = await books.world.client.post(f"/v1/usage/periods/{this_month}/close", headers=biller)
    assert problem(answer) == (409, "watermark-behind")
    assert int(answer.headers["retry-after"]) > 0


async def test_r10_409_reconciliation_mismatch_names_the_tenant(billing: ClockedWorld) -> None:
    books = await books_of(billing)
    await billing.resources.ledger.append(
        books.tenant.id, replace(an_event(books.tenant.id), period=books.period, plan_id=await plan_of(books))
    )
    answer = await books.close()
    assert problem(answer) == (409, "reconciliation-mismatch")
    assert pointers(answer) == [f"/tenants/{books.tenant.id}"]
    found = (await books.get(f"periods/{books.period}/reconciliation")).json()
    assert (found["agrees"], [each["difference"] for each in found["data"] if each["difference"]]) == (False, [2])
    assert (await books.get(f"periods/{books.period}")).json()["state"] == "open"
    accepted = await books.close(accept_difference="two rows were imported by hand")
    assert accepted.status_code == 202
    assert (await books.get(f"periods/{books.period}")).json()["state"] == "closed"


async def plan_of(books: Books) -> str:
    return str((await events_of(books.world, books.tenant, 1))[0]["plan_id"])


async def test_r15_closing_again_changes_nothing(closed: Books) -> None:
    before = (await closed.get(f"periods/{closed.period}")).content
    again = await closed.close()
    assert (again.status_code, again.json()) == (
        202,
        {"period": closed.period, "state": "closed", "closed": 1, "closing": 0},
    )
    assert (await closed.get(f"periods/{closed.period}")).content == before


@pytest.mark.parametrize("path", ["periods/{}", "periods/{}/reconciliation"])
async def test_404_a_month_that_has_not_begun(books: Books, path: str) -> None:
    assert problem(await books.get(path.format("9998-01"))) == (404, "not-found")


@pytest.mark.parametrize("period", ["2026-13", "2026-1", "26-01", "2026-00", "november", "2026-01-01"])
async def test_422_what_is_no_month(books: Books, period: str) -> None:
    for path in (f"periods/{period}", f"periods/{period}/reconciliation"):
        answer = await books.get(path)
        assert (problem(answer), pointers(answer)) == ((422, "validation-failed"), ["/path/period"])
    for path in ("export", "statement", "adjustments", "periods"):
        answer = await books.get(path, period=period)
        assert (problem(answer), pointers(answer)) == ((422, "validation-failed"), ["/query/period"])


async def test_422_the_platform_has_to_say_whose_books(books: Books) -> None:
    biller = await a_biller(books.world)
    for path in (f"periods/{books.period}/reconciliation", "statement", "export"):
        answer = await books.world.client.get(f"/v1/usage/{path}", params={"period": books.period}, headers=biller)
        assert (problem(answer), pointers(answer)) == ((422, "validation-failed"), ["/query/tenant_id"])


# Exports


async def test_r11_409_period_open(books: Books) -> None:
    for form in ("csv", "ndjson"):
        assert problem(await books.export(form)) == (409, "period-open")


async def test_r9_the_export_its_trailer_and_the_period_agree(closed: Books) -> None:
    answer = await closed.export()
    assert answer.headers["content-type"] == "application/x-ndjson"
    *records, trailer = lines(answer)
    totals = (await closed.get(f"periods/{closed.period}")).json()
    names = (
        *("events", "adjustments", "units", "billable_units", "amount_micros", "currency"),
        *("first_position", "last_position", "sha256"),
    )
    assert {name: trailer[name] for name in names} == {name: totals[name] for name in names}
    assert trailer["units"] == sum(record["units"] for record in records) == 6
    assert [trailer["first_position"], trailer["last_position"]] == [records[0]["position"], records[-1]["position"]]
    canonical = b"".join(answer.content.splitlines(keepends=True)[:-1])
    assert hashlib.sha256(canonical).hexdigest() == totals["sha256"]


async def test_r11_the_same_bytes_every_time_in_both_formats_with_the_same_rows(closed: Books) -> None:
    for form in ("csv", "ndjson"):
        one, two = await closed.export(form), await closed.export(form)
        assert one.status_code == 200
        assert one.content == two.content
        assert one.headers["etag"] == two.headers["etag"]
        assert one.headers["digest"] == digest(one.content)
        assert int(one.headers["content-length"]) == len(one.content)
        assert one.headers["content-disposition"].endswith(f'"usage-{closed.period}.{form}"')
    rows = list(csv.DictReader(io.StringIO((await closed.export("csv")).text, newline="")))
    records = lines(await closed.export())
    assert len(rows) == len(records) == 4
    for row, record in zip(rows, records, strict=True):
        assert {name: value for name, value in row.items() if value} == {
            name: str(value) for name, value in record.items() if value is not None
        }


async def test_r11_a_transfer_goes_on_from_any_byte(closed: Books) -> None:
    for form in ("csv", "ndjson"):
        whole = await closed.export(form)
        content, etag, size = whole.content, whole.headers["etag"], len(whole.content)
        for wanted, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=10-", 10, size),
            (f"bytes={size - 1}-", size - 1, size),
            ("bytes=-20", size - 20, size),
            (f"bytes=5-{size + 99}", 5, size),
            ("bytes=100-199", 100, 200),
        ):
            answer = await closed.export(form, Range=wanted, **{"If-Range": etag})
            assert (answer.status_code, answer.content) == (206, content[start:end]), wanted
            assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
            assert answer.headers["digest"] == digest(content)
        for header in ({"Range": "bytes=1-", "If-Range": '"other"'}, {"Range": "rows=1-"}, {"Range": "bytes=0-1,3-4"}):
            answer = await closed.export(form, **header)
            assert (answer.status_code, answer.content) == (200, content)
        assert problem(await closed.export(form, Range=f"bytes={size}-")) == (416, "range-not-satisfiable")
        unchanged = await closed.export(form, **{"If-None-Match": etag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


async def test_x1_a_cell_that_a_spreadsheet_would_run_is_neutralised(billing: ClockedWorld) -> None:
    books = await books_of(billing, requests=1)
    await billing.predict(books.tenant.live, ROWS, headers={"X-Request-Id": "-1-cmd"})
    operator = await an_operator(billing)
    for reason in ('=HYPERLINK("http://x")', "+1", "@SUM(A1)", "-1"):
        answer = await billing.client.post(
            "/v1/usage/adjustments",
            json={"period": books.period, "tenant_id": books.tenant.id, "units": 1, "reason": reason},
            headers=operator,
        )
        assert answer.status_code == 201, answer.text
    booked = replace(books, period=answer.json()["period"])
    await books.close()
    await booked.close()
    found: list[dict[str, str]] = []
    for each in {books.period: books, booked.period: booked}.values():
        found += csv.DictReader(io.StringIO((await each.export("csv")).text, newline=""))
    texts = {row["request_id"] for row in found} | {row["reason"] for row in found}
    assert {"'-1-cmd", '\'=HYPERLINK("http://x")', "'+1", "'@SUM(A1)", "'-1"} <= texts
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r")) for row in found for text in row.values())


# Statements


async def test_a_statement_prices_a_month_line_by_line(billing: ClockedWorld) -> None:
    operator = await an_operator(billing)
    pricing = {
        "flat_fee_micros": 0,
        "included_units": 1,
        "model": "graduated",
        "tiers": [{"up_to": 2, "rate": {"micros": 10}}, {"rate": {"micros": 1}, "flat_micros": 100}],
    }
    plan = f"priced-{secrets.token_hex(4)}"
    made = await billing.client.post(
        "/v1/admin/plans", json={"name": plan, "rate_per_minute": 6000, "pricing": pricing}, headers=operator
    )
    assert made.status_code == 201, made.text
    books = await books_of(billing, plan=plan)
    found = (await books.get("statement", period=books.period)).json()
    assert (found["state"], found["total_micros"], found["currency"]) == ("open", 20 + 100 + 3, "USD")
    await books.close()
    answer = await books.get("statement", period=books.period)
    statement = answer.json()
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["digest"] == digest(answer.content)
    [line] = statement["lines"]
    assert line == {
        "kind": "usage",
        "plan_id": made.json()["id"],
        "plan": plan,
        "plan_version": 1,
        "units": 6,
        "included_units": 1,
        "currency": "USD",
        "amount_micros": 123,
        "corrects_period": None,
    }
    assert (statement["state"], statement["total_micros"]) == ("closed", 123)


# Adjustments


async def adjust(world: World, headers: dict[str, str], once: str = "", **body: Any) -> Response:
    extra = {"Idempotency-Key": once} if once else {}
    return await world.client.post(
        "/v1/usage/adjustments", json={"reason": "a mistake", **body}, headers=headers | extra
    )


async def test_r8_a_correction_is_a_new_row_that_says_what_who_and_why(closed: Books) -> None:
    operator = await an_operator(closed.world)
    event = (await events_of(closed.world, closed.tenant, 3))[1]
    before = (await closed.get(f"periods/{closed.period}")).content
    answer = await adjust(closed.world, operator, event_id=event["id"], units=-2)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert found["id"].startswith("adj_")
    assert (found["event_id"], found["corrects_period"], found["units"]) == (event["id"], closed.period, -2)
    assert (found["reason"], found["actor_kind"], found["kind"]) == ("a mistake", "service-account", "correction")
    assert found["period"] == closed.world.clock.now().strftime("%Y-%m") > closed.period
    with anyio.fail_after(WITHIN_S):
        while not (listed := (await closed.get("adjustments")).json()["data"]):
            await anyio.sleep(0.01)
    assert listed == [found]
    assert (await closed.get(f"periods/{closed.period}")).content == before
    async with closed.world.resources.store.unit_of_work(read_only=True) as unit:
        records = await unit.audit.list(closed.tenant.id, AuditFilter(), before_sequence=None, limit=1)
    assert (records[0].entry.action.value, records[0].entry.target_id) == ("usage.adjusted", found["id"])
    assert records[0].entry.actor.id == found["actor_id"]


async def test_a_correction_is_made_once(closed: Books) -> None:
    operator = await an_operator(closed.world)
    event = (await events_of(closed.world, closed.tenant, 1))[0]
    body = {"event_id": event["id"], "units": 5}
    first = await adjust(closed.world, operator, "once", **body)
    again = await adjust(closed.world, operator, "once", **body)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert problem(await adjust(closed.world, operator, "once", **body | {"units": 6})) == (
        422,
        "idempotency-key-reused",
    )


async def test_what_was_never_billed_cannot_be_taken_back(closed: Books) -> None:
    operator = await an_operator(closed.world)
    event = (await events_of(closed.world, closed.tenant, 1))[0]
    assert event["billable_units"] == 1
    assert (await adjust(closed.world, operator, event_id=event["id"], units=-1)).status_code == 201
    for body in (
        {"event_id": event["id"], "units": -1},
        {"period": closed.period, "tenant_id": closed.tenant.id, "units": -6},
    ):
        answer = await adjust(closed.world, operator, **body)
        assert (problem(answer), pointers(answer)) == ((422, "validation-failed"), ["/units"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"units": 1}, "/event_id"),
        ({"units": 1, "period": "2026-01"}, "/tenant_id"),
        ({"units": 1, "period": "2026-01", "event_id": "evt_1"}, "/period"),
        ({"units": 1, "period": "9998-01", "tenant_id": "ten_1"}, "/period"),
        ({"units": 0, "event_id": "evt_1"}, "/units"),
        ({"units": "1", "event_id": "evt_1"}, "/units"),
        ({"units": 1, "event_id": "evt_1", "reason": ""}, "/reason"),
        ({"units": 1, "event_id": "' OR 1=1"}, "/event_id"),
        ({"units": 1, "event_id": "evt_1", "billable_units": 1}, ""),
    ],
)
async def test_422_a_body_that_describes_no_correction(billing: ClockedWorld, body: Any, pointer: str) -> None:
    answer = await adjust(billing, await an_operator(billing), **body)
    assert (problem(answer), pointers(answer)) == ((422, "validation-failed"), [pointer])


async def test_404_a_correction_of_nothing(billing: ClockedWorld) -> None:
    operator = await an_operator(billing)
    this_month = billing.clock.now().strftime("%Y-%m")
    for body in (
        {"event_id": new_id("evt")},
        {"event_id": new_id("evt"), "tenant_id": "ten_nobody"},
        {"period": this_month, "tenant_id": "ten_nobody"},
    ):
        assert problem(await adjust(billing, operator, units=1, **body)) == (404, "not-found")


# Whose


async def test_a1_nobody_sees_another_tenants_books(billing: ClockedWorld) -> None:
    theirs = await books_of(billing)
    await theirs.close()
    mine = await books_of(billing, requests=0)
    for path in (
        f"periods/{theirs.period}",
        f"periods/{theirs.period}/reconciliation",
        "statement",
        "export",
        "periods",
    ):
        query: dict[str, Any] = {"period": theirs.period} if "/" not in path else {}
        foreign = await mine.get(path, **query, tenant_id=theirs.tenant.id)
        nobodys = await mine.get(path, **query, tenant_id="ten_nobody")
        assert problem(foreign) == problem(nobodys) == (404, "not-found"), path
        own = await mine.get(path, **query)
        assert theirs.tenant.id not in own.text
    assert (await mine.get(f"periods/{theirs.period}")).json()["events"] == 0
    assert (await mine.get("adjustments")).json()["data"] == []


@pytest.mark.parametrize("path", ["periods", "adjustments"])
async def test_a1_422_another_tenants_cursor(closed: Books, path: str) -> None:
    other = await books_of(closed.world, requests=0)
    operator = await an_operator(closed.world)
    for _ in range(2):
        booked = await adjust(closed.world, operator, period=closed.period, tenant_id=closed.tenant.id, units=1)
        assert booked.status_code == 201
    with anyio.fail_after(WITHIN_S):
        while not (cursor := (await closed.get(path, limit=1)).json()["next_cursor"]):
            await anyio.sleep(0.01)
    assert (await closed.get(path, limit=1, cursor=cursor)).status_code == 200
    refused = await other.get(path, limit=1, cursor=cursor)
    assert (problem(refused), pointers(refused)) == ((422, "validation-failed"), ["/query/cursor"])
