"""Opens the jobs: the same ones inside a server as in a process of their own."""

from contextlib import AsyncExitStack

from backend.adapters.db.engine import open_engine
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_months import SqlUsageMonths
from backend.adapters.db.usage_retention import SqlUsageRetention
from backend.adapters.db.usage_totals import SqlUsageTotals
from backend.adapters.db.write_turns import WriteTurns
from backend.adapters.redis.quota_reconciliation import RedisQuotaReconciliation
from backend.adapters.usage_spill import SpillDrain
from backend.composition.metering import Metering
from backend.domain.clock import Clock
from backend.services.ports import Metrics, OutboundHttp, Outbox, QuotaHistory, Sealer
from backend.services.usage_alerts import UsageAlertService
from backend.services.webhook_deliveries import WebhookDeliveryService
from backend.settings import Settings
from backend.worker import (
    Job,
    JobRunner,
    cleanups,
    outgoing_jobs,
    quota_reconciliation,
    spill_drain,
    usage_months,
    usage_retention,
    usage_rollup,
)

RETENTION_WITHIN_S = 60.0


def jobs_on(
    database: Database,
    rollups: SqlUsageRollups,
    history: QuotaHistory,
    metering: Metering,
    clock: Clock,
    metrics: Metrics,
) -> tuple[Job, ...]:
    """Return every job that there is something to do for."""
    jobs = [*cleanups(database, clock), usage_rollup(rollups), usage_months(SqlUsageMonths(database, clock))]
    if metering.spill is not None and metering.line is not None:
        jobs.append(spill_drain(SpillDrain(metering.spill, metering.ledger, metrics=metrics)))
        reconciliation = RedisQuotaReconciliation(metering.line, history, metering.spill, clock, metrics=metrics)
        jobs.append(quota_reconciliation(reconciliation.run))
    return tuple(jobs)


def retention_on(settings: Settings, clock: Clock, turns: WriteTurns, stack: AsyncExitStack) -> tuple[Job, ...]:
    """Return the job that lets old usage expire, where it may. To take a large month out takes longer than a request
    may, so it has a connection of its own."""
    if settings.usage_retention_months is None:
        return ()
    engine = open_engine(settings.database_url, pool_size=1, timeout_s=RETENTION_WITHIN_S, turns=turns)
    stack.push_async_callback(engine.dispose)
    return (usage_retention(SqlUsageRetention(engine, clock, keep_months=settings.usage_retention_months)),)


def outgoing_on(
    database: Database, outbound: OutboundHttp, sealer: Sealer, outbox: Outbox, clock: Clock, metrics: Metrics
) -> tuple[Job, ...]:
    """Return the jobs that tell tenants what happens."""
    webhooks = WebhookDeliveryService(
        store=database, outbound=outbound, sealer=sealer, outbox=outbox, clock=clock, metrics=metrics
    )
    alerts = UsageAlertService(store=database, totals=SqlUsageTotals(database), outbox=outbox, clock=clock)
    return outgoing_jobs(webhooks, alerts)


def run_inside(jobs: tuple[Job, ...], stack: AsyncExitStack, metrics: Metrics) -> None:
    """Run the jobs beside the requests until the stack is closed."""
    runner = JobRunner(jobs, metrics=metrics)
    runner.start()
    stack.push_async_callback(runner.aclose)
