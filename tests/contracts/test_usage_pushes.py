"""R17: whatever becomes of requests and answers, the biller's total of a month comes to be the ledger's.

On SQLite and on PostgreSQL, told as Stripe and as OpenMeter want it.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.period_totals import SqlPeriodTotals
from backend.adapters.http import HttpxOutbound, OutboundLimits, SystemResolver
from backend.adapters.http.billers import OpenMeterBiller, StripeBiller
from backend.composition.biller import EVERYWHERE
from backend.domain.adjustments import Adjustment, AdjustmentKind
from backend.domain.api_keys import Environment
from backend.domain.audit import SYSTEM
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import period_of
from backend.domain.usage_pushes import LONGEST_WAIT_S
from backend.services.ports import Biller
from backend.services.usage_pushes import UsagePushService
from tests.billing_receiver import BillingReceiver, billing_receiver
from tests.contracts.closing import OVER, PLAN, a_closer, a_subscriber, close, kept
from tests.contracts.ledgers import Books, an_event, new_tenant
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

JULY, AUGUST = "2026-07", "2026-08"


@dataclass
class Scene:
    """A tenant that a biller knows, its ledger, and a worker."""

    books: Books
    ledger: GroupCommitLedger
    clock: FakeClock
    receiver: BillingReceiver
    tenant_id: TenantId
    read_s: float = 30.0

    @property
    def customer(self) -> str:
        return f"cus_{self.tenant_id}"

    @property
    def biller(self) -> Biller:
        limits = OutboundLimits(read_s=self.read_s, connect_s=30.0, total_s=60.0)
        # The receiver speaks plain HTTP. To read all certificates would take each worker longer than its push.
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        outbound = HttpxOutbound(SystemResolver(), allowed=EVERYWHERE, limits=limits, tls=tls)
        kind = StripeBiller if self.receiver.kind == "stripe" else OpenMeterBiller
        return kind(outbound, url=self.receiver.url, token="sk_test_receiver", meter="rows")

    @property
    def worker(self) -> UsagePushService:
        """A worker that has just started."""
        totals = SqlPeriodTotals(self.books.database)
        return UsagePushService(store=self.books.database, totals=totals, biller=self.biller, clock=self.clock)

    async def use(self, units: int, **changes: Any) -> None:
        changes = {"occurred_at": self.clock.now(), **changes}
        await self.ledger.append(
            self.tenant_id, an_event(self.tenant_id, units=units, cached_units=0, billable_units=units, **changes)
        )

    async def adjust(self, billable_units: int) -> None:
        """Correct July's books, in the month that it is now."""
        adjustment = Adjustment(
            id=new_id("adj"),
            tenant_id=self.tenant_id,
            kind=AdjustmentKind.CORRECTION,
            period=period_of(self.clock.now_s()),
            corrects_period=JULY,
            event_id=None,
            units=billable_units,
            billable_units=billable_units,
            plan_id=PLAN.id,
            plan_version=1,
            reason="a test",
            actor_kind=SYSTEM.kind,
            actor_id=SYSTEM.id,
            created_at=self.clock.now(),
            late_event=None,
        )
        async with self.books.database.unit_of_work() as unit:
            await unit.adjustments.add(self.tenant_id, adjustment)

    async def owed(self, period: str = JULY) -> int:
        """Close a month; return the billable units that its statement has."""
        assert (await close(a_closer(self.books, self.clock), self.tenant_id, period)).failures == {}
        closed = await kept(self.books, self.tenant_id, period)
        assert closed is not None
        return closed.totals.billable_units

    async def knows(self, customer_id: str | None) -> None:
        async with self.books.database.unit_of_work() as unit:
            await unit.biller_customers.set(self.tenant_id, customer_id)

    async def push(self) -> tuple[int, int]:
        report = await self.worker.push()
        return report.taken, report.failed

    def told(self, month: str = JULY) -> int:
        return self.receiver.total(self.customer, month)


@pytest.fixture(params=["stripe", "openmeter"])
async def scene(request: pytest.FixtureRequest, books: Books, clock: FakeClock) -> AsyncIterator[Scene]:
    tenant_id = await a_subscriber(books, TenantId(f"{new_tenant()}_billed"))
    async with books.database.unit_of_work() as unit:
        # Those of other tests are theirs.
        others = await unit.biller_customers.list_all()
    for other in others:
        async with books.database.unit_of_work() as unit:
            await unit.biller_customers.set(other.tenant_id, None)
    async with billing_receiver(request.param) as receiver, books.writer(clock=clock) as ledger:
        scene = Scene(books, ledger, clock, receiver, tenant_id)
        await scene.knows(scene.customer)
        yield scene


async def test_r17_the_months_total_is_pushed_and_pushed_anew_when_it_grows(scene: Scene) -> None:
    assert await scene.push() == (0, 0), "nothing was used"
    await scene.use(3)
    await scene.use(4)
    await scene.use(100, environment=Environment.TEST, credential_id="key_t")
    assert await scene.push() == (1, 0)
    assert await scene.push() == (0, 0), "nothing has changed"
    scene.clock.advance(60)
    await scene.use(5)
    assert await scene.push() == (1, 0)
    kept = sorted(scene.receiver.kept.values(), key=lambda each: each.at_s)
    assert [(each.customer, each.meter) for each in kept] == [(scene.customer, "rows")] * 2
    assert len(kept) == 2


@pytest.mark.parametrize("trouble", ["lost", "answer_lost", "broken", "broken_but_kept", "busy", "twice"])
async def test_r17_one_trouble_and_then_the_total_is_right(scene: Scene, trouble: str) -> None:
    await scene.use(7)
    scene.receiver.will(getattr(scene.receiver, trouble), scene.receiver.known)
    await scene.push()
    scene.clock.advance(LONGEST_WAIT_S)
    await scene.push()
    assert scene.told() == 7
    assert len(scene.receiver.kept) == 1
    assert await scene.push() == (0, 0)


async def test_r17_an_answer_that_comes_too_late_is_a_repetition_and_no_second_reading(scene: Scene) -> None:
    scene.read_s = 0.05
    await scene.use(7)
    scene.receiver.will(scene.receiver.too_late, scene.receiver.known)
    assert await scene.push() == (0, 1)
    scene.read_s = 30.0
    assert await scene.push() == (0, 0), "it waits"
    scene.clock.advance(LONGEST_WAIT_S)
    assert await scene.push() == (1, 0)
    assert scene.told() == 7
    assert (len(scene.receiver.kept), scene.receiver.repeated) == (1, 1)


async def test_r17_the_biller_says_for_how_long_it_wants_to_be_left_alone(scene: Scene) -> None:
    await scene.use(7)
    scene.receiver.will(scene.receiver.busy, scene.receiver.well)
    assert await scene.push() == (0, 1)
    scene.clock.advance(299)
    assert await scene.push() == (0, 0)
    scene.clock.advance(1)
    assert await scene.push() == (1, 0)


async def test_r17_it_converges_through_any_trouble(scene: Scene) -> None:
    """A month of use, with a biller that does anything but what it should."""
    chance = random.Random(17)
    receiver = scene.receiver
    troubles = [
        receiver.well,
        receiver.known,
        receiver.twice,
        receiver.lost,
        receiver.answer_lost,
        receiver.broken,
        receiver.broken_but_kept,
        receiver.busy,
    ]
    used = 0
    for _ in range(25):
        units = chance.randrange(1, 50)
        used += units
        await scene.use(units)
        receiver.will(chance.choice(troubles))
        await asyncio.gather(*(scene.push() for _ in range(chance.randrange(1, 3))))
        scene.clock.advance(chance.randrange(1, 3 * LONGEST_WAIT_S))
    receiver.will(receiver.known)
    scene.clock.advance(LONGEST_WAIT_S)
    await scene.push()
    assert scene.told() == used
    assert await scene.push() == (0, 0)


async def test_r17_a_late_event_is_pushed_anew_and_after_the_close_the_total_once_more(scene: Scene) -> None:
    await scene.use(10)
    await scene.push()
    served = scene.clock.now()
    scene.clock.set(datetime(2026, 8, 1, 0, 30, tzinfo=UTC))
    await scene.use(1)
    await scene.use(5, occurred_at=served)
    assert await scene.push() == (2, 0)
    assert (scene.told(), scene.told(AUGUST)) == (15, 1)
    scene.clock.advance(60)
    await scene.use(2, occurred_at=served)
    assert await scene.push() == (1, 0)
    assert scene.told() == 17
    before = len(scene.receiver.kept)
    scene.clock.set(OVER)
    assert await scene.owed() == 17
    assert await scene.push() == (1, 0)
    assert (scene.told(), len(scene.receiver.kept)) == (17, before + 1)
    assert await scene.push() == (0, 0)


async def test_r17_what_is_corrected_after_the_close_is_pushed_with_the_month_that_it_is_booked_in(
    scene: Scene,
) -> None:
    await scene.use(10)
    served = scene.clock.now()
    scene.clock.set(OVER)
    assert await scene.owed() == 10
    await scene.push()
    assert scene.told() == 10
    await scene.use(4)
    # After the close: an adjustment that August has, and July, which may be on an invoice, has not.
    await scene.use(5, occurred_at=served)
    await scene.adjust(-2)
    assert await scene.push() == (1, 0)
    assert (scene.told(), scene.told(AUGUST)) == (10, 7)
    assert await scene.push() == (0, 0)
    scene.clock.set(OVER + timedelta(days=31))
    assert await scene.owed(AUGUST) == 7
    await scene.push()
    assert (scene.told(), scene.told(AUGUST)) == (10, 7)


async def test_r17_a_period_that_stays_open_for_long_is_pushed_still(scene: Scene) -> None:
    await scene.use(10)
    await scene.push()
    served = scene.clock.now()
    scene.clock.set(datetime(2026, 11, 3, tzinfo=UTC))
    await scene.use(4, occurred_at=served)
    assert await scene.push() == (1, 0)
    assert scene.told() == 14


async def test_r17_a_worker_that_dies_half_way_leaves_the_very_same_reading(scene: Scene) -> None:
    await scene.use(7)
    reached = asyncio.Event()

    async def hang(request: Any, _writer: asyncio.StreamWriter) -> None:
        scene.receiver.keep(request)
        reached.set()
        await asyncio.Event().wait()

    scene.receiver.will(hang, scene.receiver.known)
    dying = asyncio.create_task(scene.worker.push())
    await reached.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert await scene.push() == (0, 0), "it is still its own"
    scene.clock.advance(60)
    assert await scene.push() == (1, 0)
    assert (scene.told(), len(scene.receiver.kept), scene.receiver.repeated) == (7, 1, 1)


async def test_r17_many_workers_at_once_send_a_reading_once(scene: Scene) -> None:
    await scene.use(7)
    reports = await asyncio.gather(*(scene.push() for _ in range(6)))
    assert sum(taken for taken, _ in reports) == 1
    assert len(scene.receiver.server.received) == 1


async def test_r17_a_tenant_that_the_biller_does_not_know_is_not_pushed(scene: Scene) -> None:
    await scene.knows(None)
    await scene.use(7)
    assert await scene.push() == (0, 0)
    await scene.knows("cus_new")
    assert await scene.push() == (1, 0)
    assert scene.receiver.total("cus_new", JULY) == 7
    await scene.knows("cus_newer")
    scene.clock.advance(60)
    assert await scene.push() == (1, 0)
    assert scene.receiver.total("cus_newer", JULY) == 7


async def test_k3_no_log_line_holds_the_billers_token(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "httpcore")
    caplog.set_level("INFO", "aiosqlite")
    await scene.use(7)
    scene.receiver.will(scene.receiver.broken)
    assert await scene.push() == (0, 1)
    lines = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "reading not taken" in lines
    assert "sk_test_receiver" not in lines
