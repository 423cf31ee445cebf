"""Webhooks over HTTP."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from backend.api.deps import TenantWriter, UsageReaderCaller, WebhookServiceDep, get_outbound
from backend.api.deps.providers import provided
from backend.api.idempotency import ONCE_REFUSALS, IdempotentRoute, Once
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.webhooks import (
    DeliveryOut,
    NewWebhookOut,
    RotateSecretIn,
    WebhookChangeIn,
    WebhookIn,
    WebhookOut,
)
from backend.domain import errors
from backend.services.webhooks import Judgement, judge

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=IdempotentRoute)

Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=500)]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A new endpoint, and whether its URL may be called."""

    body: WebhookIn
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class ChangeProposal:
    """A change, and whether its URL may be called."""

    body: WebhookChangeIn
    judgement: Judgement


# A name is looked up before the request's transaction begins, which on SQLite would keep every writer waiting. So the
# parameters below stand before `_once`, which begins it.
async def propose(request: Request, _caller: TenantWriter, body: WebhookIn) -> Proposal:
    """Judge the URL of a caller who may have one."""
    return Proposal(body, await judge(provided(request, get_outbound), body.url))


async def propose_change(request: Request, _caller: TenantWriter, body: WebhookChangeIn) -> ChangeProposal:
    """Judge the URL, if there is one, of a caller who may change it."""
    return ChangeProposal(body, await judge(provided(request, get_outbound), body.url))


@router.post(
    "",
    status_code=201,
    summary="Create a webhook endpoint",
    responses=refusals(errors.UrlNotAllowed, errors.WebhookLimitReached, *ONCE_REFUSALS),
)
async def create_webhook(
    proposal: Annotated[Proposal, Depends(propose)],
    caller: TenantWriter,
    service: WebhookServiceDep,
    response: Response,
    _once: Once,
) -> NewWebhookOut:
    """Have a URL told what happens. The secret that messages are signed with stands in this answer and nowhere else.

    Messages follow the Standard Webhooks specification: check `webhook-signature`, an HMAC-SHA256 of
    `{webhook-id}.{webhook-timestamp}.{body}`, and answer 2xx. Each is sent at least once, again under its `webhook-id`.
    """
    body = proposal.body
    endpoint, secret = await service.create(
        caller,
        url=body.url,
        judgement=proposal.judgement,
        events=None if body.events is None else tuple(body.events),
        description=body.description,
    )
    response.headers["Location"] = f"/v1/webhooks/{endpoint.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewWebhookOut.with_secret(endpoint, secret)


@router.get("", summary="List webhook endpoints", responses=refusals())
async def list_webhooks(
    caller: UsageReaderCaller, service: WebhookServiceDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[WebhookOut]:
    """Return the tenant's endpoints, newest first."""
    page = await service.list(caller, cursor=cursor, limit=limit)
    return Page(
        data=[WebhookOut.of(endpoint) for endpoint in page.endpoints],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.get("/{webhook_id}", summary="Read a webhook endpoint", responses=refusals(errors.NotFound))
async def read_webhook(webhook_id: str, caller: UsageReaderCaller, service: WebhookServiceDep) -> WebhookOut:
    """Return one endpoint, never its secret."""
    return WebhookOut.of(await service.get(caller, webhook_id))


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook endpoint",
    responses=refusals(errors.NotFound, errors.UrlNotAllowed, errors.BadRequest),
)
async def update_webhook(
    webhook_id: str,
    proposal: Annotated[ChangeProposal, Depends(propose_change)],
    caller: TenantWriter,
    service: WebhookServiceDep,
) -> WebhookOut:
    """Change the fields that are sent. What waits for an endpoint that is disabled is given up."""
    return WebhookOut.of(await service.update(caller, webhook_id, proposal.body.to_change(), proposal.judgement))


@router.delete(
    "/{webhook_id}",
    status_code=204,
    summary="Delete a webhook endpoint",
    response_class=Response,
    responses=refusals(errors.NotFound),
)
async def delete_webhook(webhook_id: str, caller: TenantWriter, service: WebhookServiceDep) -> None:
    """Delete an endpoint and the log of its deliveries."""
    await service.delete(caller, webhook_id)


@router.post(
    "/{webhook_id}/rotate-secret",
    summary="Make a new signing secret",
    responses=refusals(errors.NotFound, errors.RotationInProgress, *ONCE_REFUSALS),
)
async def rotate_webhook_secret(
    webhook_id: str,
    body: RotateSecretIn,
    caller: TenantWriter,
    service: WebhookServiceDep,
    response: Response,
    _once: Once,
) -> NewWebhookOut:
    """Replace the secret, which stands in this answer and nowhere else. Both sign during the overlap."""
    endpoint, secret = await service.rotate_secret(caller, webhook_id, timedelta(seconds=body.overlap_seconds))
    response.headers["Cache-Control"] = "no-store"
    return NewWebhookOut.with_secret(endpoint, secret)


@router.post(
    "/{webhook_id}/test",
    status_code=202,
    summary="Send a test message",
    responses=refusals(errors.NotFound, errors.WebhookDisabled, *ONCE_REFUSALS),
)
async def try_webhook(webhook_id: str, caller: TenantWriter, service: WebhookServiceDep, _once: Once) -> DeliveryOut:
    """Have a `webhook.test` message sent, once. Its delivery tells what came of it."""
    return DeliveryOut.of(await service.test(caller, webhook_id))


@router.get("/{webhook_id}/deliveries", summary="List deliveries", responses=refusals(errors.NotFound))
async def list_deliveries(
    webhook_id: str,
    caller: UsageReaderCaller,
    service: WebhookServiceDep,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[DeliveryOut]:
    """Return what was and is sent to an endpoint in the last 30 days, newest first, with each attempt."""
    page = await service.deliveries(caller, webhook_id, cursor=cursor, limit=limit)
    return Page(
        data=[DeliveryOut.of(delivery) for delivery in page.deliveries],
        has_more=page.next_cursor is not None,
        next_cursor=page.next_cursor,
    )


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a message once more",
    responses=refusals(errors.NotFound, errors.WebhookDisabled, *ONCE_REFUSALS),
)
async def redeliver(
    webhook_id: str, delivery_id: str, caller: TenantWriter, service: WebhookServiceDep, _once: Once
) -> DeliveryOut:
    """Have a message sent once more, under the same `webhook-id`, with a new round of attempts."""
    return DeliveryOut.of(await service.redeliver(caller, webhook_id, delivery_id))
