"""Periodic jobs. Each is safe to run in many copies at once and changes nothing when there is nothing to do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from backend.adapters.usage_spill import SpillDrain
from backend.domain.clock import Clock
from backend.domain.sessions import ABSOLUTE_LIFETIME
from backend.services.closing import PeriodCloser
from backend.services.ports import Store, UsageMonths, UsageRetention, UsageRollups
from backend.services.signing_keys import KEPT_AFTER_RETIREMENT
from backend.services.usage_alerts import UsageAlertService
from backend.services.usage_pushes import UsagePushService
from backend.services.webhook_deliveries import WebhookDeliveryService

# A login that cannot be refreshed any more is kept a while, so that a late reuse is still recognised.
LOGIN_RETENTION = ABSOLUTE_LIFETIME + timedelta(days=30)

# Those that ended are shown to admins for a while; the audit log keeps who invited whom.
INVITATION_RETENTION = timedelta(days=90)

ROLLUP_REST = 4.0
"""How long the roll-up rests after a batch, as a multiple of what that took: predictions are booked in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do every so often."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[int]]


def cleanups(store: Store, clock: Clock) -> tuple[Job, ...]:
    """Return the jobs that forget what nobody can use any more. How long anything else is kept belongs here too."""
    return (
        login_cleanup(store, clock),
        mailed_token_cleanup(store, clock),
        invitation_cleanup(store, clock),
        revoked_token_cleanup(store, clock),
        idempotency_cleanup(store, clock),
        signing_key_cleanup(store, clock),
    )


def login_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets logins which ended long ago."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            return await unit.sessions.forget_before(clock.now() - LOGIN_RETENTION)

    return Job(name="login clean-up", every_s=3600, work=work)


def mailed_token_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets mailed tokens which nobody can use any more."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            return await unit.mailed_tokens.forget_before(clock.now() - timedelta(days=1))

    return Job(name="mailed token clean-up", every_s=3600, work=work)


def invitation_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets invitations which ended long ago."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            return await unit.invitations.forget_before_of_all_tenants(clock.now() - INVITATION_RETENTION)

    return Job(name="invitation clean-up", every_s=3600, work=work)


def revoked_token_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets revoked access tokens which have expired since."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            # An hour is more than the leeway for clocks that differ.
            return await unit.revoked_tokens.forget_before(clock.now() - timedelta(hours=1))

    return Job(name="revoked token clean-up", every_s=3600, work=work)


def idempotency_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets answers which nobody can ask for again."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            return await unit.idempotency.forget_expired_of_all_tenants(clock.now())

    return Job(name="idempotency clean-up", every_s=3600, work=work)


def signing_key_cleanup(store: Store, clock: Clock) -> Job:
    """Return the job that forgets signing keys which verify nothing any more."""

    async def work() -> int:
        async with store.unit_of_work() as unit:
            return await unit.signing_keys.forget_retired_before(clock.now() - KEPT_AFTER_RETIREMENT)

    return Job(name="signing key clean-up", every_s=3600, work=work)


def usage_rollup(
    rollups: UsageRollups,
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Job:
    """Return the job that folds the ledger into sums by the hour, and between batches leaves the database to others."""

    async def work() -> int:
        total = 0
        while True:
            began_s = now_s()
            count = await rollups.fold_of_all_tenants()
            total += count
            # What has come in meanwhile waits for the next turn: under load a fold that goes on until nothing is left
            # never ends, and folds a handful at a time.
            if count < rollups.batch_events:
                return total
            await sleep(ROLLUP_REST * (now_s() - began_s))

    return Job(name="usage roll-up", every_s=5, work=work)


def usage_months(months: UsageMonths) -> Job:
    """Return the job that makes the ledger's months before they begin."""
    return Job(name="usage months", every_s=3600, work=months.make)


def usage_retention(retention: UsageRetention) -> Job:
    """Return the job that lets old usage events expire."""
    return Job(name="usage retention", every_s=3600, work=retention.expire)


def spill_drain(drain: SpillDrain) -> Job:
    """Return the job that brings usage into the ledger which was kept while the database was away."""
    return Job(name="spill drain", every_s=1, work=drain.run)


def quota_reconciliation(reconcile: Callable[[], Awaitable[int]]) -> Job:
    """Return the job that compares quota counters with the ledger."""
    return Job(name="quota reconciliation", every_s=60, work=reconcile)


def outgoing_jobs(webhooks: WebhookDeliveryService, alerts: UsageAlertService) -> tuple[Job, ...]:
    """Return the jobs that tell tenants what happens: webhooks, and how much of their quotas is used."""
    return (
        Job(name="webhook delivery", every_s=2, work=webhooks.deliver_due),
        Job(name="webhook clean-up", every_s=3600, work=webhooks.forget_old),
        Job(name="usage alerts", every_s=30, work=alerts.check),
    )


def usage_push(service: UsagePushService) -> Job:
    """Return the job that tells an outside biller what tenants used."""
    return Job(name="usage push", every_s=60, work=service.push_all)


def closing(closer: PeriodCloser) -> Job:
    """Return the job that finishes closes which were cut off."""
    return Job(name="period closing", every_s=30, work=closer.finish)
