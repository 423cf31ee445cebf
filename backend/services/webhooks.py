"""Webhook endpoints: made, shown, changed, given a new secret, tried out, deleted; and what was sent to them.

A secret leaves this module once, when it is made. Whether a URL may be called is found out before the transaction
begins, for it takes a look-up of its name: ``Judgement`` is what was found.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypedDict

from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound, RotationInProgress, UrlNotAllowed, WebhookDisabled, WebhookLimitReached
from backend.domain.ids import new_id
from backend.domain.outbound import origin_of
from backend.domain.scopes import Scope
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import (
    ENDPOINT_PREFIX,
    MAX_ENDPOINTS,
    DisabledBecause,
    PreviousSecret,
    WebhookEndpoint,
    WebhookEvent,
    WebhookMessage,
    audit_view,
    mint_secret,
)
from backend.services.ports import CursorCodec, OutboundHttp, Sealer, UnitOfWork


class WebhookChange(TypedDict, total=False):
    """What somebody wants changed of an endpoint; what is not named stays."""

    url: str
    description: str
    events: tuple[WebhookEvent, ...] | None
    enabled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPage:
    """Endpoints, newest first."""

    endpoints: tuple[WebhookEndpoint, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPage:
    """Deliveries, newest first."""

    deliveries: tuple[Delivery, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a URL may be called, found out before anything was written: ``None`` when it may."""

    refusal: UrlNotAllowed | None = None

    def require_allowed(self) -> None:
        """Refuse what may not be called.

        Raises:
            UrlNotAllowed: why not.
        """
        if self.refusal is not None:
            raise self.refusal


async def judge(outbound: OutboundHttp, url: str | None) -> Judgement:
    """Look a URL's name up and judge where it leads."""
    try:
        if url is not None:
            await outbound.check(url)
    except UrlNotAllowed as refusal:
        return Judgement(refusal)
    return Judgement()


class WebhookService:
    """What a tenant may do with its webhooks."""

    def __init__(self, *, unit: UnitOfWork, sealer: Sealer, cursors: CursorCodec, clock: Clock) -> None:
        self._unit = unit
        self._sealer = sealer
        self._cursors = cursors
        self._clock = clock

    async def create(
        self,
        caller: Caller,
        *,
        url: str,
        judgement: Judgement,
        events: tuple[WebhookEvent, ...] | None,
        description: str,
    ) -> tuple[WebhookEndpoint, str]:
        """Make an endpoint; return it and the secret that its messages are signed with.

        Raises:
            UrlNotAllowed: the service does not call this URL.
            WebhookLimitReached: the tenant has as many as it may.
        """
        judgement.require_allowed()
        await self._unit.tenants.hold(caller.tenant_id)
        existing = await self._unit.webhook_endpoints.list(caller.tenant_id, after=None, limit=MAX_ENDPOINTS)
        if len(existing) >= MAX_ENDPOINTS:
            raise WebhookLimitReached
        secret = mint_secret()
        endpoint_id = new_id(ENDPOINT_PREFIX)
        endpoint = WebhookEndpoint(
            id=endpoint_id,
            tenant_id=caller.tenant_id,
            url=url,
            description=description,
            events=events,
            sealed_secret=self._sealer.seal(secret.encode(), endpoint_id),
            previous=None,
            created_by=caller.credential_id,
            created_at=self._clock.now(),
        )
        await self._unit.webhook_endpoints.add(caller.tenant_id, endpoint)
        await self._record(caller, Action.WEBHOOK_CREATED, None, endpoint)
        return endpoint, secret

    async def get(self, caller: Caller, endpoint_id: str) -> WebhookEndpoint:
        """Return one of the tenant's endpoints, as the caller may see it.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        endpoint = await self._unit.webhook_endpoints.get(caller.tenant_id, endpoint_id)
        if endpoint is None:
            raise NotFound
        return _as_seen_by(caller, endpoint)

    async def list(self, caller: Caller, *, cursor: str | None, limit: int) -> EndpointPage:
        """Return a page of the tenant's endpoints, as the caller may see them."""
        purpose = f"webhooks:{caller.tenant_id}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.webhook_endpoints.list(caller.tenant_id, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        endpoints = tuple(_as_seen_by(caller, endpoint) for endpoint in found[:limit])
        return EndpointPage(endpoints=endpoints, next_cursor=next_cursor)

    async def update(
        self, caller: Caller, endpoint_id: str, change: WebhookChange, judgement: Judgement
    ) -> WebhookEndpoint:
        """Change an endpoint. One that is enabled again starts with nothing held against it.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            UrlNotAllowed: the service does not call this URL.
        """
        before = await self._held(caller, endpoint_id)
        judgement.require_allowed()
        endpoint = replace(
            before,
            url=change.get("url", before.url),
            description=change.get("description", before.description),
            events=change.get("events", before.events),
        )
        wanted = change.get("enabled", before.is_enabled)
        if wanted and not before.is_enabled:
            endpoint = endpoint.enabled()
        if before.is_enabled and not wanted:
            endpoint = endpoint.disabled(DisabledBecause.ASKED, self._clock.now())
            await self._unit.webhook_deliveries.give_up_pending(caller.tenant_id, endpoint.id)
        if endpoint == before:
            return before
        await self._unit.webhook_endpoints.store(caller.tenant_id, endpoint)
        await self._record(caller, Action.WEBHOOK_UPDATED, before, endpoint)
        return endpoint

    async def rotate_secret(self, caller: Caller, endpoint_id: str, overlap: timedelta) -> tuple[WebhookEndpoint, str]:
        """Give an endpoint a new secret; during the overlap messages carry a signature of each.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            RotationInProgress: the overlap of the last rotation is still running.
        """
        now = self._clock.now()
        before = await self._held(caller, endpoint_id)
        if before.overlap_at(now) is not None:
            raise RotationInProgress
        secret = mint_secret()
        endpoint = replace(
            before,
            sealed_secret=self._sealer.seal(secret.encode(), before.id),
            previous=PreviousSecret(sealed=before.sealed_secret, valid_until=now + overlap) if overlap else None,
        )
        await self._unit.webhook_endpoints.store(caller.tenant_id, endpoint)
        await self._record(caller, Action.WEBHOOK_ROTATED, before, endpoint)
        return endpoint, secret

    async def delete(self, caller: Caller, endpoint_id: str) -> None:
        """Take an endpoint away, with its deliveries.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        endpoint = await self._held(caller, endpoint_id)
        await self._unit.webhook_endpoints.delete(caller.tenant_id, endpoint.id)
        await self._record(caller, Action.WEBHOOK_DELETED, endpoint, None)

    async def test(self, caller: Caller, endpoint_id: str) -> Delivery:
        """Have a test message sent to an endpoint, once, whatever else it wants to know.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            WebhookDisabled: nothing is sent to it.
        """
        endpoint = await self._enabled(caller, endpoint_id)
        now = self._clock.now()
        message = WebhookMessage.telling(WebhookEvent.TEST, {"endpoint_id": endpoint.id}, now)
        delivery = Delivery.of(message, endpoint, now)
        await self._unit.webhook_deliveries.add(caller.tenant_id, delivery)
        await self._record(caller, Action.WEBHOOK_TESTED, endpoint, endpoint)
        return delivery

    async def deliveries(self, caller: Caller, endpoint_id: str, *, cursor: str | None, limit: int) -> DeliveryPage:
        """Return a page of what was and is sent to an endpoint.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        endpoint = await self.get(caller, endpoint_id)
        purpose = f"webhook-deliveries:{caller.tenant_id}:{endpoint.id}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.webhook_deliveries.list(caller.tenant_id, endpoint.id, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        return DeliveryPage(deliveries=tuple(found[:limit]), next_cursor=next_cursor)

    async def redeliver(self, caller: Caller, endpoint_id: str, delivery_id: str) -> Delivery:
        """Have a message sent once more, under the same id and with a new round of attempts.

        Raises:
            NotFound: there is no such endpoint or delivery, or it is another tenant's.
            WebhookDisabled: nothing is sent to the endpoint.
        """
        endpoint = await self._enabled(caller, endpoint_id)
        delivery = await self._unit.webhook_deliveries.get(caller.tenant_id, endpoint.id, delivery_id)
        if delivery is None:
            raise NotFound
        again = delivery.again(self._clock.now())
        # An attempt that begins at this very moment is the new one just as well.
        await self._unit.webhook_deliveries.store(caller.tenant_id, again)
        entry = AuditEntry(
            actor=caller.actor,
            action=Action.WEBHOOK_REDELIVERED,
            target_id=endpoint.id,
            after={"delivery_id": delivery.id, "message_id": delivery.message_id},
        )
        await self._unit.audit.record(caller.tenant_id, entry)
        return again

    async def _held(self, caller: Caller, endpoint_id: str) -> WebhookEndpoint:
        endpoint = await self._unit.webhook_endpoints.hold(caller.tenant_id, endpoint_id)
        if endpoint is None:
            raise NotFound
        return endpoint

    async def _enabled(self, caller: Caller, endpoint_id: str) -> WebhookEndpoint:
        endpoint = await self._held(caller, endpoint_id)
        if not endpoint.is_enabled:
            raise WebhookDisabled
        return endpoint

    async def _record(
        self, caller: Caller, action: Action, before: WebhookEndpoint | None, after: WebhookEndpoint | None
    ) -> None:
        entry = AuditEntry.of_change(caller.actor, action, audit_view, before, after)
        await self._unit.audit.record(caller.tenant_id, entry)


def _as_seen_by(caller: Caller, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    """Hide the path of a URL, which may be a secret of the other side's, from who may not change it."""
    if Scope.TENANT_WRITE in caller.scopes:
        return endpoint
    return replace(endpoint, url=f"{origin_of(endpoint.url)}/…")
