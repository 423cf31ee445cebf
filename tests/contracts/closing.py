"""What tests of closing start from: a tenant on a plan in a ledger of either kind, and who closes its months."""

from datetime import UTC, datetime, timedelta

import anyio

from backend.adapters.db.usage import SqlUsageReader
from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.usage_spill import NothingWaits
from backend.domain.admission import AdmissionRequest, Epochs, Settlement, Verdict
from backend.domain.api_keys import Environment
from backend.domain.audit import OPERATOR
from backend.domain.billing_periods import ClosedPeriod, PeriodState
from backend.domain.ids import TenantId, new_id
from backend.domain.limits import QuotaRule
from backend.domain.plans import Plan, QuotaMode
from backend.domain.pricing import Pricing, PricingModel, Rate
from backend.domain.tenants import Tenant, TenantStatus
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import WebhookEndpoint, WebhookEvent
from backend.services.closing import CloseReport, PeriodCloser
from backend.services.ports import WaitingUsage
from tests.contracts.ledgers import Books
from tests.fakes import FakeClock, FakeHistory

GRACE_S = 3600
PERIOD = "2026-07"
BEFORE = datetime(2026, 6, 1, tzinfo=UTC)
OVER = datetime(2026, 8, 1, tzinfo=UTC) + timedelta(seconds=GRACE_S)
WITHIN_S = 30.0
PLAN = Plan(
    id="pln_1",
    name="closing",
    version=1,
    rate_per_minute=600,
    monthly_quota=None,
    quota_mode=QuotaMode.HARD,
    bills_cache_hits=False,
    max_api_keys=10,
    pricing=Pricing(flat_fee_micros=1_000, included_units=2, model=PricingModel.PER_UNIT, rate=Rate(micros=10)),
)


async def a_subscriber(books: Books, tenant_id: TenantId, plan: Plan = PLAN, *, since: datetime = BEFORE) -> TenantId:
    """Put a new tenant on a plan."""
    async with books.database.unit_of_work() as unit:
        await unit.plans.add(plan)
        await unit.tenants.add(
            Tenant(
                id=tenant_id,
                slug=tenant_id.replace("_", "-"),
                name="a tenant",
                status=TenantStatus.ACTIVE,
                version=1,
                created_at=since,
            )
        )
        await unit.subscriptions.start(tenant_id, plan.id, since)
    return tenant_id


def a_closer(
    books: Books, clock: FakeClock, admission: MemoryAdmission | None = None, waiting: WaitingUsage | None = None
) -> PeriodCloser:
    return PeriodCloser(
        store=books.database,
        reader=SqlUsageReader(books.database, clock),
        waiting=waiting or NothingWaits(),
        admission=admission or an_admission(clock),
        clock=clock,
        grace_s=GRACE_S,
    )


async def a_listener(
    books: Books, tenant_id: TenantId, events: tuple[WebhookEvent, ...] | None = None
) -> WebhookEndpoint:
    """Give a tenant a webhook; ``None`` wants to know everything."""
    endpoint = WebhookEndpoint(
        id=new_id("whk"),
        tenant_id=tenant_id,
        url="https://hooks.example.com/",
        description="",
        events=events,
        sealed_secret=b"sealed",
        previous=None,
        created_by="usr_1",
        created_at=BEFORE,
    )
    async with books.database.unit_of_work() as unit:
        await unit.webhook_endpoints.add(tenant_id, endpoint)
    return endpoint


async def told(books: Books, listener: WebhookEndpoint) -> list[Delivery]:
    """Return what a webhook is told, sent or not."""
    async with books.database.unit_of_work(read_only=True) as unit:
        return await unit.webhook_deliveries.list(listener.tenant_id, listener.id, after=None, limit=100)


def an_admission(clock: FakeClock) -> MemoryAdmission:
    return MemoryAdmission(clock, FakeHistory(), cache_bytes=1_000, cache_ttl_s=1.0)


async def settle(admission: MemoryAdmission, tenant_id: TenantId, units: int) -> None:
    """Use quota, as a request of so many rows does."""
    request = AdmissionRequest(
        lease_id=new_id("evt"),
        credential_id="key_a",
        environment=Environment.LIVE,
        epochs=Epochs(tenant=1, credential=1, fresh=True),
        cost=units,
        rates=(),
        quotas=(QuotaRule(scope="tenant", subject=tenant_id, limit=None),),
    )
    decision = await admission.admit(tenant_id, request)
    assert decision.verdict is Verdict.ADMITTED
    assert decision.lease is not None
    await admission.settle(tenant_id, Settlement(lease=decision.lease))


async def close(
    closer: PeriodCloser, tenant_id: TenantId, period: str = PERIOD, *, accepted: str | None = None
) -> CloseReport:
    """Close a tenant's period; other tests' transactions may hold the watermark back for a moment."""
    with anyio.fail_after(WITHIN_S):
        while True:
            report = await closer.close(OPERATOR, period, only=tenant_id, accepted=accepted)
            if not any(error.code == "watermark-behind" for error in report.failures.values()):
                return report
            await anyio.sleep(0.01)


async def kept(books: Books, tenant_id: TenantId, period: str = PERIOD) -> ClosedPeriod | None:
    async with books.database.unit_of_work(read_only=True) as unit:
        return await unit.periods.closed(tenant_id, period)


async def state(books: Books, tenant_id: TenantId, period: str = PERIOD) -> PeriodState:
    async with books.database.unit_of_work(read_only=True) as unit:
        return await unit.periods.state(tenant_id, period)
