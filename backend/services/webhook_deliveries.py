"""Sends what webhooks are owed. Any number of copies may run: each message is claimed by one of them at a time."""

import asyncio
import random
from datetime import datetime

from backend.domain.audit import SYSTEM, Action, AuditEntry
from backend.domain.clock import Clock
from backend.domain.errors import CallFailed
from backend.domain.mail import endpoint_disabled_mail
from backend.domain.outbound import origin_of
from backend.domain.scopes import Role
from backend.domain.webhook_deliveries import KEPT_FOR, Attempt, Delivery, excerpt_of, retry_after_of
from backend.domain.webhooks import (
    DisabledBecause,
    WebhookEndpoint,
    WebhookEvent,
    audit_view,
    signature_headers,
)
from backend.services.ports import Metrics, OutboundHttp, Outbox, Sealer, Store, UnitOfWork
from backend.services.ports.store import ClaimedDelivery

AT_ONCE = 32
AT_ONCE_EACH = 4
"""At most so many at a time to one endpoint, so that a slow one holds up nobody else's."""


class WebhookDeliveryService:
    """The worker's side of webhooks."""

    def __init__(
        self,
        *,
        store: Store,
        outbound: OutboundHttp,
        sealer: Sealer,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
        at_once: int = AT_ONCE,
    ) -> None:
        self._store = store
        self._outbound = outbound
        self._sealer = sealer
        self._outbox = outbox
        self._clock = clock
        self._at_once = at_once
        text = "Attempts to deliver a webhook message."
        self._counters = {
            outcome: metrics.counter("forecourt_webhook_attempts_total", text, outcome=outcome)
            for outcome in ("delivered", "refused", "failed")
        }

    async def deliver_due(self) -> int:
        """Try everything that is due, once; return how many attempts were made."""
        made = 0
        while claimed := await self._claim():
            await asyncio.gather(*(self._attempt(each) for each in claimed))
            made += len(claimed)
        return made

    async def forget_old(self) -> int:
        """Forget deliveries that ended long ago; return how many."""
        async with self._store.unit_of_work() as unit:
            return await unit.webhook_deliveries.forget_before_of_all_tenants(self._clock.now() - KEPT_FOR)

    async def _claim(self) -> tuple[ClaimedDelivery, ...]:
        now = self._clock.now()
        # Asked first without a lock: on SQLite, claiming keeps every other writer waiting.
        async with self._store.unit_of_work(read_only=True) as unit:
            if not await unit.webhook_deliveries.is_any_due_of_all_tenants(now):
                return ()
        async with self._store.unit_of_work() as unit:
            return await unit.webhook_deliveries.claim_due_of_all_tenants(now, limit=self._at_once, each=AT_ONCE_EACH)

    async def _attempt(self, claimed: ClaimedDelivery) -> None:
        delivery, endpoint = claimed.delivery, claimed.endpoint
        if not endpoint.is_enabled:
            async with self._store.unit_of_work() as unit:
                await unit.webhook_deliveries.store(delivery.tenant_id, delivery.given_up())
            return
        attempt, retry_after_s = await self._send(delivery, endpoint)
        outcome = "delivered" if attempt.is_success else "failed" if attempt.status is None else "refused"
        self._counters[outcome].add()
        after = delivery.after(attempt, retry_after_s=retry_after_s, jitter=random.random())
        async with self._store.unit_of_work() as unit:
            # The endpoint first, as everybody does: two attempts that wait for each other's rows would never end.
            endpoint_now = await unit.webhook_endpoints.hold(delivery.tenant_id, delivery.endpoint_id)
            if await unit.webhook_deliveries.store(delivery.tenant_id, after) and endpoint_now is not None:
                await self._judge(unit, delivery, endpoint_now, attempt)

    async def _send(self, delivery: Delivery, endpoint: WebhookEndpoint) -> tuple[Attempt, int | None]:
        """Post a message; return what came of it and how long the endpoint wants to be left alone."""
        now = self._clock.now()
        body = delivery.body.encode()
        headers = signature_headers(delivery.message_id, body, self._secrets(endpoint, now), now)
        try:
            answer = await self._outbound.post(
                endpoint.url, headers={"content-type": "application/json", **headers}, body=body
            )
        except CallFailed as failed:
            return Attempt(at=now, status=None, failure=failed.reason.value, duration_ms=failed.duration_ms), None
        attempt = Attempt(at=now, status=answer.status, failure=None, duration_ms=answer.duration_ms)
        if attempt.is_success:
            return attempt, None
        told = Attempt(
            at=now,
            status=answer.status,
            failure=None,
            duration_ms=answer.duration_ms,
            excerpt=excerpt_of(answer.body),
        )
        return told, retry_after_of(answer.headers.get("retry-after"), now)

    def _secrets(self, endpoint: WebhookEndpoint, now: datetime) -> tuple[str, ...]:
        """Return every secret that counts now, the newest first."""
        previous = endpoint.overlap_at(now)
        sealed = (endpoint.sealed_secret, *((previous.sealed,) if previous else ()))
        return tuple(self._sealer.unseal(each, endpoint.id).decode() for each in sealed)

    async def _judge(self, unit: UnitOfWork, delivery: Delivery, endpoint: WebhookEndpoint, attempt: Attempt) -> None:
        """Note how the endpoint does; one that is gone, or has failed for days, is not called any more."""
        if delivery.event is WebhookEvent.TEST and not attempt.is_success and not attempt.says_gone:
            return
        if not endpoint.is_enabled:
            return
        if attempt.is_success:
            judged = endpoint.after_success()
        elif attempt.says_gone:
            judged = endpoint.disabled(DisabledBecause.GONE, attempt.at)
        else:
            judged = endpoint.after_failure(attempt.at)
        if judged == endpoint:
            return
        await unit.webhook_endpoints.store(delivery.tenant_id, judged)
        if not judged.is_enabled:
            await self._tell_disabled(unit, endpoint, judged)

    async def _tell_disabled(self, unit: UnitOfWork, before: WebhookEndpoint, endpoint: WebhookEndpoint) -> None:
        tenant_id = endpoint.tenant_id
        await unit.webhook_deliveries.give_up_pending(tenant_id, endpoint.id)
        entry = AuditEntry(
            actor=SYSTEM,
            action=Action.WEBHOOK_DISABLED,
            target_id=endpoint.id,
            before=audit_view(before),
            after=audit_view(endpoint),
        )
        await unit.audit.record(tenant_id, entry)
        tenant = await unit.tenants.get(tenant_id)
        addresses = await unit.memberships.emails_of(tenant_id, frozenset({Role.OWNER}))
        name = tenant.name if tenant else tenant_id
        because = endpoint.disabled_because or DisabledBecause.FAILING
        mails = [
            endpoint_disabled_mail(to=address, tenant=name, origin=origin_of(endpoint.url), because=because)
            for address in addresses
        ]

        async def post() -> None:
            for mail in mails:
                self._outbox.post(mail)

        unit.after_commit(post)
