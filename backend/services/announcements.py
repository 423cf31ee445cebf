"""Telling a tenant's webhooks what happened, in the transaction in which it happens."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backend.domain.ids import TenantId
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import MAX_ENDPOINTS, WebhookEvent, WebhookMessage
from backend.services.ports import UnitOfWork


async def announce(
    unit: UnitOfWork, tenant_id: TenantId, event: WebhookEvent, data: Mapping[str, Any], at: datetime
) -> int:
    """Write a delivery for each endpoint that wants to know; return how many. A worker sends them once committed."""
    endpoints = await unit.webhook_endpoints.list(tenant_id, after=None, limit=MAX_ENDPOINTS)
    wanting = [endpoint for endpoint in endpoints if endpoint.wants(event)]
    if wanting:
        message = WebhookMessage.telling(event, data, at)
        for endpoint in wanting:
            await unit.webhook_deliveries.add(tenant_id, Delivery.of(message, endpoint, at))
    return len(wanting)
