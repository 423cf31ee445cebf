"""Webhook endpoints in SQL."""

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.tables import WebhookDeliveryRow, WebhookEndpointRow
from backend.domain.ids import TenantId
from backend.domain.webhooks import DisabledBecause, PreviousSecret, WebhookEndpoint, WebhookEvent


def endpoint_from_row(row: WebhookEndpointRow) -> WebhookEndpoint:
    """Return the endpoint that a row holds."""
    previous = None
    if row.previous_sealed is not None and row.previous_valid_until is not None:
        previous = PreviousSecret(sealed=row.previous_sealed, valid_until=row.previous_valid_until)
    return WebhookEndpoint(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        url=row.url,
        description=row.description,
        events=None if row.events is None else tuple(WebhookEvent(event) for event in row.events),
        sealed_secret=row.sealed_secret,
        previous=previous,
        created_by=row.created_by,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        disabled_because=DisabledBecause(row.disabled_because) if row.disabled_because else None,
        failing_since=row.failing_since,
    )


def _row(endpoint: WebhookEndpoint, tenant_id: TenantId) -> WebhookEndpointRow:
    return WebhookEndpointRow(
        id=endpoint.id,
        tenant_id=tenant_id,
        url=endpoint.url,
        description=endpoint.description,
        events=None if endpoint.events is None else [event.value for event in endpoint.events],
        sealed_secret=endpoint.sealed_secret,
        previous_sealed=endpoint.previous.sealed if endpoint.previous else None,
        previous_valid_until=endpoint.previous.valid_until if endpoint.previous else None,
        created_by=endpoint.created_by,
        created_at=endpoint.created_at,
        disabled_at=endpoint.disabled_at,
        disabled_because=endpoint.disabled_because.value if endpoint.disabled_because else None,
        failing_since=endpoint.failing_since,
    )


@tenant_rows
class SqlWebhookEndpoints:
    """Where a tenant is told what happens."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, endpoint: WebhookEndpoint) -> None:
        """Store a new endpoint."""
        self._session.add(_row(endpoint, tenant_id))
        await self._session.flush()

    async def get(self, tenant_id: TenantId, endpoint_id: str) -> WebhookEndpoint | None:
        """Return one of the tenant's endpoints."""
        row = await self._session.scalar(
            select(WebhookEndpointRow)
            .where(col(WebhookEndpointRow.tenant_id) == tenant_id)
            .where(col(WebhookEndpointRow.id) == endpoint_id)
            .execution_options(populate_existing=True)
        )
        return endpoint_from_row(row) if row else None

    async def hold(self, tenant_id: TenantId, endpoint_id: str) -> WebhookEndpoint | None:
        """Return one of the tenant's endpoints, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(WebhookEndpointRow)
            .where(col(WebhookEndpointRow.tenant_id) == tenant_id)
            .where(col(WebhookEndpointRow.id) == endpoint_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        return endpoint_from_row(row) if row else None

    async def keep(self, tenant_id: TenantId) -> tuple[WebhookEndpoint, ...]:
        """Return all of the tenant's endpoints; none of them is deleted before the unit ends."""
        rows = await self._session.scalars(
            select(WebhookEndpointRow)
            .where(col(WebhookEndpointRow.tenant_id) == tenant_id)
            .order_by(col(WebhookEndpointRow.id))
            .with_for_update(read=True, key_share=True)
            .execution_options(populate_existing=True)
        )
        return tuple(endpoint_from_row(row) for row in rows)

    async def store(self, tenant_id: TenantId, endpoint: WebhookEndpoint) -> None:
        """Store a changed endpoint in place of the one that is there."""
        await self._session.merge(_row(endpoint, tenant_id))
        await self._session.flush()

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[WebhookEndpoint]:
        """Return up to ``limit`` endpoints with an id below ``after``, newest first."""
        query = select(WebhookEndpointRow).where(col(WebhookEndpointRow.tenant_id) == tenant_id)
        if after is not None:
            query = query.where(col(WebhookEndpointRow.id) < after)
        rows = await self._session.scalars(query.order_by(col(WebhookEndpointRow.id).desc()).limit(limit))
        return [endpoint_from_row(row) for row in rows]

    async def delete(self, tenant_id: TenantId, endpoint_id: str) -> None:
        """Take an endpoint away, and all that was sent or is on its way to it."""
        await self._session.execute(
            delete(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.tenant_id) == tenant_id)
            .where(col(WebhookDeliveryRow.endpoint_id) == endpoint_id)
        )
        await self._session.execute(
            delete(WebhookEndpointRow)
            .where(col(WebhookEndpointRow.tenant_id) == tenant_id)
            .where(col(WebhookEndpointRow.id) == endpoint_id)
        )
