"""Closing, in one body over SQLite and PostgreSQL: once, with the same totals, whatever happens on the way."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from backend.adapters.db.ledger import EventConflict, GroupCommitLedger
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.adjustments import Adjustment, AdjustmentKind
from backend.domain.audit import OPERATOR, AuditFilter
from backend.domain.billing_periods import PeriodState
from backend.domain.errors import NotFound, ReconciliationMismatch, WatermarkBehind
from backend.domain.ids import TenantId
from backend.domain.usage import LEDGER_START
from backend.domain.webhooks import WebhookEvent
from backend.services.billing import pages_of
from tests.contracts.closing import (
    GRACE_S,
    OVER,
    PERIOD,
    PLAN,
    a_closer,
    a_listener,
    a_subscriber,
    an_admission,
    close,
    kept,
    settle,
    state,
    told,
)
from tests.contracts.ledgers import SERVED_AT, Books, an_event, append_all, insert, new_tenant
from tests.databases import connected
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

AUGUST = datetime(2026, 8, 3, 12, tzinfo=UTC)
postgres_only = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


@pytest.fixture
async def ledger(books: Books, clock: FakeClock) -> AsyncIterator[GroupCommitLedger]:
    """The ledger on the test's clock: it decides which months are over."""
    async with books.writer(clock=clock) as ledger:
        yield ledger


async def served(books: Books, ledger: GroupCommitLedger, count: int = 5) -> TenantId:
    """Return a subscriber with some usage in July: two rows each, one of them billable."""
    tenant = await a_subscriber(books, new_tenant())
    await append_all(ledger, [an_event(tenant) for _ in range(count)])
    return tenant


async def adjustments(books: Books, tenant: TenantId, period: str | None = None, *, least: int = 1) -> list[Adjustment]:
    """Read them once the watermark has passed so many."""
    with anyio.fail_after(30):
        while True:
            async with books.database.unit_of_work(read_only=True) as unit:
                found = await unit.adjustments.page(tenant, period, LEDGER_START, 100)
                if len(found) >= least:
                    return [each.adjustment for each in found]
            await anyio.sleep(0.01)


# R7: open, closing, closed


async def test_r7_a_month_closes_only_when_it_and_the_grace_are_over(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger)
    for now in (SERVED_AT, OVER - timedelta(seconds=GRACE_S), OVER - timedelta(milliseconds=1)):
        clock.set(now)
        with pytest.raises(WatermarkBehind) as refused:
            await a_closer(books, clock).close(OPERATOR, PERIOD, only=tenant)
        assert refused.value.retry_after_s is not None
        assert now + timedelta(seconds=refused.value.retry_after_s) >= OVER
    assert await state(books, tenant) is PeriodState.OPEN
    clock.set(OVER)
    assert (await close(a_closer(books, clock), tenant)).state is PeriodState.CLOSED
    assert await state(books, tenant) is PeriodState.CLOSED


@postgres_only
async def test_r7_a_close_waits_for_transactions_that_may_still_add_to_the_month(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    closer = a_closer(books, clock)
    with connected(books.url) as late:
        insert(late, an_event(tenant, units=7))
        report = await closer.close(OPERATOR, PERIOD, only=tenant)
        assert [error.code for error in report.failures.values()] == ["watermark-behind"]
        assert await state(books, tenant) is PeriodState.CLOSING
        late.commit()
    await close(closer, tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    assert (closed.totals.events, closed.totals.units) == (6, 17)


async def test_r7_what_is_closed_never_changes(books: Books, ledger: GroupCommitLedger, clock: FakeClock) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    closer = a_closer(books, clock)
    await close(closer, tenant)
    before = await kept(books, tenant)
    clock.set(AUGUST)
    await append_all(ledger, [an_event(tenant), an_event(tenant, occurred_at=AUGUST)])
    report = await close(closer, tenant)
    assert (report.closed, report.failures) == (1, {})
    assert await kept(books, tenant) == before


async def test_r7_a_month_without_usage_closes_too(books: Books, clock: FakeClock) -> None:
    tenant = await a_subscriber(books, new_tenant())
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    assert (closed.totals.events, closed.totals.first_position, closed.totals.amount_micros) == (0, None, 1_000)
    assert closed.totals.sha256 == hashlib.sha256(b"").hexdigest()


# R9: control totals


async def test_r9_control_totals_are_those_of_the_records(
    books: Books, ledger: GroupCommitLedger, reader: SqlUsageReader, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 600)
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    records = [record async for page in pages_of(books.database, reader, tenant, PERIOD) for record in page]
    assert len({record.position for record in records}) == 600
    totals = closed.totals
    assert (totals.events, totals.adjustments, totals.units, totals.billable_units) == (600, 0, 1200, 600)
    assert (totals.first_position, totals.last_position) == (str(records[0].position), str(records[-1].position))
    # The fee, and 598 units beyond the two included ones at 10 micros.
    assert (totals.amount_micros, totals.currency) == (1_000 + 5_980, "USD")
    [live] = await reader.plan_usage(tenant, PERIOD)
    assert (live.events, live.units, live.billable_units) == (600, 1200, 600)
    assert await reader.bounds(tenant, PERIOD) == (records[0].position, records[-1].position)


# R5, R8: what comes late


async def test_r5_an_event_of_an_open_month_lands_in_it_however_late(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 1)
    clock.set(AUGUST)
    await append_all(ledger, [an_event(tenant, units=3)])
    await close(a_closer(books, clock), tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    assert (closed.totals.events, closed.totals.units, closed.totals.adjustments) == (2, 5, 0)


async def test_r5_an_event_of_a_closed_month_becomes_one_adjustment(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    clock.set(AUGUST)
    late = an_event(tenant, units=9, billable_units=9)
    # Handed in three times, as a drain does that was cut off.
    await append_all(ledger, [late, late])
    await append_all(ledger, [late, an_event(tenant, occurred_at=AUGUST)])
    [booked] = await adjustments(books, tenant)
    assert (booked.kind, booked.period, booked.corrects_period) == (AdjustmentKind.LATE_EVENT, "2026-08", PERIOD)
    assert (booked.units, booked.billable_units, booked.event_id, booked.late_event) == (9, 9, late.id, late)
    assert (booked.actor_kind, booked.plan_id) == ("system", "pln_1")
    assert late.id not in books.ids(tenant)
    assert len(books.ids(tenant)) == 6


async def test_r5_an_event_that_is_in_the_closed_month_already_is_not_booked_again(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await a_subscriber(books, new_tenant())
    event = an_event(tenant)
    await append_all(ledger, [event])
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    await append_all(ledger, [event])
    async with books.database.unit_of_work(read_only=True) as unit:
        assert await unit.adjustments.totals(tenant, "2026-08") == (0, 0, 0)
    with pytest.raises(EventConflict):
        await ledger.append(tenant, replace(event, units=99))


async def test_r4_a_late_event_with_another_content_is_an_error(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    late = an_event(tenant)
    await ledger.append(tenant, late)
    with pytest.raises(EventConflict):
        await ledger.append(tenant, replace(late, units=99))
    assert [each.units for each in await adjustments(books, tenant)] == [late.units]


async def test_r5_a_late_event_is_priced_as_it_would_have_been_in_its_month(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 1)
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    clock.set(AUGUST)
    # July had one billable unit, two are included: the second one is free, the third costs 10 micros.
    await append_all(ledger, [an_event(tenant, billable_units=2)])
    await adjustments(books, tenant)
    clock.set(OVER + timedelta(days=31))
    await close(a_closer(books, clock), tenant, "2026-08")
    closed = await kept(books, tenant, "2026-08")
    assert closed is not None
    assert [(line.kind.value, line.units, line.amount_micros) for line in closed.lines] == [
        ("flat_fee", 31 * 86_400, 1_000),
        ("adjustment", 2, 10),
    ]
    assert (closed.totals.adjustments, closed.totals.units, closed.totals.amount_micros) == (1, 2, 1_010)


async def test_r7_an_event_is_in_the_close_or_an_adjustment_whenever_it_comes(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 0)
    clock.set(OVER)
    closer = a_closer(books, clock)
    written = [an_event(tenant) for _ in range(60)]

    async def drain() -> None:
        for event in written:
            await ledger.append(tenant, event)

    async def shut() -> None:
        while len(books.ids(tenant)) < 10:
            await asyncio.sleep(0)
        await close(closer, tenant)

    await asyncio.gather(drain(), shut())
    closed = await kept(books, tenant)
    assert closed is not None
    late = await adjustments(books, tenant, least=60 - closed.totals.events)
    assert closed.totals.events + len(late) == 60
    assert closed.totals.events == len(books.ids(tenant))


# R10: the ledger against what was settled


async def test_r10_a_difference_blocks_the_close_and_says_whose(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 5)
    admission = an_admission(clock)
    await settle(admission, tenant, 9)
    clock.set(OVER)
    closer = a_closer(books, clock, admission)
    report = await close(closer, tenant)
    [(whose, error)] = report.failures.items()
    assert (whose, error.code) == (tenant, "reconciliation-mismatch")
    assert [(each.pointer, each.detail) for each in error.errors] == [
        (f"/tenants/{tenant}", "live: 10 units in the ledger, 9 settled")
    ]
    with pytest.raises(ReconciliationMismatch):
        report.refuse()
    assert await state(books, tenant) is PeriodState.OPEN
    live, test = await closer.compare(tenant, PERIOD)
    assert (live.ledger_units, live.settled_units, live.agrees) == (10, 9, False)
    assert (test.ledger_units, test.settled_units, test.agrees) == (0, None, True)


async def test_r10_what_was_settled_as_booked_closes(books: Books, ledger: GroupCommitLedger, clock: FakeClock) -> None:
    tenant = await served(books, ledger, 5)
    admission = an_admission(clock)
    await settle(admission, tenant, 10)
    clock.set(OVER)
    assert (await close(a_closer(books, clock, admission), tenant)).failures == {}


async def test_r10_a_difference_that_is_accepted_closes_and_is_on_record(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 5)
    admission = an_admission(clock)
    await settle(admission, tenant, 9)
    clock.set(OVER)
    report = await close(a_closer(books, clock, admission), tenant, accepted="the counter was restored from a copy")
    assert report.failures == {}
    async with books.database.unit_of_work(read_only=True) as unit:
        [record] = await unit.audit.list(tenant, AuditFilter(), before_sequence=None, limit=10)
    assert record.entry.after["accepted_difference"] == "the counter was restored from a copy"
    assert (record.entry.action.value, record.entry.target_id) == ("period.closed", PERIOD)


# R15: idempotent, and one tenant at a time


async def test_r15_many_closes_at_once_are_one(books: Books, ledger: GroupCommitLedger, clock: FakeClock) -> None:
    tenant = await served(books, ledger, 20)
    clock.set(OVER)
    closer = a_closer(books, clock)
    await asyncio.gather(*(close(closer, tenant) for _ in range(6)))
    async with books.database.unit_of_work(read_only=True) as unit:
        records = await unit.audit.list(tenant, AuditFilter(), before_sequence=None, limit=10)
    assert [record.entry.action.value for record in records] == ["period.closed"]
    closed = await kept(books, tenant)
    assert closed is not None
    assert closed.totals.events == 20


async def test_r15_whoever_wants_to_know_is_told_of_a_close_once(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 20)
    wanting = await a_listener(books, tenant)
    other = await a_listener(books, tenant, events=(WebhookEvent.API_KEY_REVOKED,))
    clock.set(OVER)
    closer = a_closer(books, clock)
    await asyncio.gather(*(close(closer, tenant) for _ in range(6)))
    await close(closer, tenant)
    [message] = await told(books, wanting)
    assert await told(books, other) == []
    assert message.event is WebhookEvent.PERIOD_CLOSED
    closed = await kept(books, tenant)
    assert closed is not None
    body = json.loads(message.body)
    assert (body["type"], body["data"]) == ("period.closed", json.loads(json.dumps(closed.content())))
    assert {"period": PERIOD, "tenant_id": tenant, "state": "closed", "units": 40}.items() <= body["data"].items()


async def test_r15_nobody_is_told_of_a_close_that_did_not_come_to_pass(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await served(books, ledger, 5)
    listener = await a_listener(books, tenant)
    admission = an_admission(clock)
    await settle(admission, tenant, 9)
    clock.set(OVER)
    assert (await close(a_closer(books, clock, admission), tenant)).failures
    assert await told(books, listener) == []


async def test_r15_a_failing_tenant_does_not_hold_up_the_others(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    failing = [await a_subscriber(books, new_tenant()) for _ in range(2)]
    well = [await served(books, ledger) for _ in range(3)]
    await append_all(ledger, [an_event(failing[0], plan_id="pln_nobodys"), an_event(failing[1])])
    admission = an_admission(clock)
    await settle(admission, failing[1], 5)
    clock.set(OVER)
    closer = a_closer(books, clock, admission)
    with anyio.fail_after(30):
        while True:
            report = await closer.close(OPERATOR, PERIOD)
            if {error.code for error in report.failures.values()}.isdisjoint({"watermark-behind"}):
                break
            await anyio.sleep(0.01)
    assert {tenant: report.failures[tenant].code for tenant in failing} == {
        failing[0]: "conflict",
        failing[1]: "reconciliation-mismatch",
    }
    assert [await state(books, tenant) for tenant in well] == [PeriodState.CLOSED] * 3
    with pytest.raises(ReconciliationMismatch) as refused:
        report.refuse()
    assert f"/tenants/{failing[1]}" in {each.pointer for each in refused.value.errors}


async def test_404_a_tenant_that_does_not_exist(books: Books, clock: FakeClock) -> None:
    clock.set(OVER)
    with pytest.raises(NotFound):
        await a_closer(books, clock).close(OPERATOR, PERIOD, only="ten_nobody")


async def test_what_was_cut_off_is_finished_later(books: Books, ledger: GroupCommitLedger, clock: FakeClock) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    async with books.database.unit_of_work() as unit:
        await unit.periods.begin_close(tenant, PERIOD, clock.now())
    closer = a_closer(books, clock)
    with anyio.fail_after(30):
        while await state(books, tenant) is not PeriodState.CLOSED:
            await closer.finish()
    closed = await kept(books, tenant)
    assert closed is not None
    assert closed.totals.events == 5


# R12, R16


async def test_r12_usage_before_and_after_a_change_of_plan_is_priced_by_its_own_version(
    books: Books, ledger: GroupCommitLedger, clock: FakeClock
) -> None:
    tenant = await a_subscriber(books, new_tenant())
    second = replace(PLAN, id="pln_closing_2", version=2, pricing=replace(PLAN.pricing, flat_fee_micros=62_000))
    half = datetime(2026, 7, 16, 12, tzinfo=UTC)
    async with books.database.unit_of_work() as unit:
        await unit.plans.add(second)
        await unit.subscriptions.start(tenant, second.id, half)
    await append_all(
        ledger,
        [
            *(an_event(tenant, billable_units=5) for _ in range(3)),
            an_event(tenant, billable_units=3, plan_id=second.id, plan_version=2),
        ],
    )
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    closed = await kept(books, tenant)
    assert closed is not None
    assert [(line.kind.value, line.plan_version, line.units, line.amount_micros) for line in closed.lines] == [
        ("flat_fee", 1, 31 * 43_200, 500),
        ("flat_fee", 2, 31 * 43_200, 31_000),
        ("usage", 1, 15, 130),
        ("usage", 2, 3, 10),
    ]


async def test_r16_whoever_is_deleted_the_books_stay(books: Books, ledger: GroupCommitLedger, clock: FakeClock) -> None:
    tenant = await served(books, ledger)
    clock.set(OVER)
    await close(a_closer(books, clock), tenant)
    before = (books.rows(tenant), await kept(books, tenant))
    with connected(books.url) as owner:
        owner.exec_driver_sql(f"DELETE FROM subscriptions WHERE tenant_id = '{tenant}'")
        owner.exec_driver_sql(f"DELETE FROM tenants WHERE id = '{tenant}'")
        owner.commit()
    assert (books.rows(tenant), await kept(books, tenant)) == before
    assert before[0]
