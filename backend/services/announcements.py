"""Telling a tenant's webhooks what happened, in the transaction in which it happens."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backend.domain.ids import TenantId
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import WebhookEvent, WebhookMessage
from backend.services.ports import UnitOfWork


async def announce(
    unit: UnitOfWork, tenant_id: TenantId, event: WebhookEvent, data: Mapping[str, Any], at: datetime
) -> int:
    """Write a delivery for each endpoint that wants to know; return how many. A worker sends them once committed."""
    wanting = [endpoint for endpoint in await unit.webhook_endpoints.keep(tenant_id) if endpoint.wants(event)]
    if wanting:
        message = WebhookMessage.telling(event, data, at)
        for endpoint in wanting:
            await unit.webhook_deliveries.add(tenant_id, Delivery.of(message, endpoint, at))
    return len(wanting)
