"""Webhook deliveries in SQL.

Due rows are claimed by moving them ahead: on PostgreSQL each worker locks rows that no other has locked (``SKIP
LOCKED``); SQLite has one writer at a time anyway.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import WebhookDeliveryRow, WebhookEndpointRow
from backend.adapters.db.webhook_endpoints import endpoint_from_row
from backend.domain.ids import TenantId
from backend.domain.webhook_deliveries import LEASE, Attempt, Delivery, DeliveryStatus
from backend.domain.webhooks import WebhookEvent
from backend.services.ports.store.webhooks import ClaimedDelivery


def _delivery(row: WebhookDeliveryRow) -> Delivery:
    return Delivery(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        endpoint_id=row.endpoint_id,
        message_id=row.message_id,
        event=WebhookEvent(row.event),
        body=row.body,
        status=DeliveryStatus(row.status),
        attempts=row.attempts,
        round_from=row.round_from,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        log=tuple(
            Attempt(
                at=datetime.fromisoformat(each["at"]),
                status=each["status"],
                failure=each["failure"],
                duration_ms=each["duration_ms"],
                excerpt=each["excerpt"],
            )
            for each in row.log
        ),
    )


def _changing(delivery: Delivery) -> dict[str, Any]:
    """Return the columns that an attempt changes."""
    return {
        "status": delivery.status.value,
        "attempts": delivery.attempts,
        "round_from": delivery.round_from,
        "next_attempt_at": delivery.next_attempt_at,
        "log": [
            {
                "at": each.at.isoformat(),
                "status": each.status,
                "failure": each.failure,
                "duration_ms": each.duration_ms,
                "excerpt": each.excerpt,
            }
            for each in delivery.log
        ],
    }


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(
        col(WebhookDeliveryRow.status) == DeliveryStatus.PENDING.value,
        col(WebhookDeliveryRow.next_attempt_at) <= now,
    )


@tenant_rows
class SqlWebhookDeliveries:
    """Messages on their way, and the log of those that were."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, delivery: Delivery) -> None:
        """Store a delivery: it stands or falls with the unit of work that caused it."""
        self._session.add(
            WebhookDeliveryRow(
                id=delivery.id,
                tenant_id=tenant_id,
                endpoint_id=delivery.endpoint_id,
                message_id=delivery.message_id,
                event=delivery.event.value,
                body=delivery.body,
                created_at=delivery.created_at,
                **_changing(delivery),
            )
        )
        await self._session.flush()

    async def get(self, tenant_id: TenantId, endpoint_id: str, delivery_id: str) -> Delivery | None:
        """Return one delivery to one of the tenant's endpoints."""
        row = await self._session.scalar(
            select(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.tenant_id) == tenant_id)
            .where(col(WebhookDeliveryRow.endpoint_id) == endpoint_id)
            .where(col(WebhookDeliveryRow.id) == delivery_id)
            .execution_options(populate_existing=True)
        )
        return _delivery(row) if row else None

    async def list(self, tenant_id: TenantId, endpoint_id: str, *, after: str | None, limit: int) -> list[Delivery]:
        """Return up to ``limit`` deliveries to an endpoint with an id below ``after``, newest first."""
        query = (
            select(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.tenant_id) == tenant_id)
            .where(col(WebhookDeliveryRow.endpoint_id) == endpoint_id)
        )
        if after is not None:
            query = query.where(col(WebhookDeliveryRow.id) < after)
        rows = await self._session.scalars(query.order_by(col(WebhookDeliveryRow.id).desc()).limit(limit))
        return [_delivery(row) for row in rows]

    async def store(self, tenant_id: TenantId, delivery: Delivery) -> bool:
        """Store a changed delivery, unless somebody has begun another attempt meanwhile; say whether it was stored."""
        stored = await self._session.execute(
            update(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.tenant_id) == tenant_id)
            .where(col(WebhookDeliveryRow.id) == delivery.id)
            .where(col(WebhookDeliveryRow.attempts) == delivery.attempts)
            .values(**_changing(delivery))
            .returning(col(WebhookDeliveryRow.id))
        )
        return stored.first() is not None

    async def give_up_pending(self, tenant_id: TenantId, endpoint_id: str) -> int:
        """Let nothing be tried any more that is on its way to an endpoint; return how much."""
        ended = await self._session.execute(
            update(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.tenant_id) == tenant_id)
            .where(col(WebhookDeliveryRow.endpoint_id) == endpoint_id)
            .where(col(WebhookDeliveryRow.status) == DeliveryStatus.PENDING.value)
            .values(status=DeliveryStatus.FAILED.value, next_attempt_at=None)
            .returning(col(WebhookDeliveryRow.id))
        )
        return len(ended.all())

    @of_all_tenants
    async def is_any_due_of_all_tenants(self, now: datetime) -> bool:
        """Whether there is anything to claim. Takes no lock."""
        found = await self._session.scalar(select(col(WebhookDeliveryRow.id)).where(_is_due(now)).limit(1))
        return found is not None

    @of_all_tenants
    async def claim_due_of_all_tenants(self, now: datetime, *, limit: int, each: int) -> tuple[ClaimedDelivery, ...]:
        """Claim what is due, the longest due first, at most ``each`` for one endpoint. Nobody else gets the same."""
        place = (
            func.row_number()
            .over(
                partition_by=col(WebhookDeliveryRow.endpoint_id),
                order_by=(col(WebhookDeliveryRow.next_attempt_at), col(WebhookDeliveryRow.id)),
            )
            .label("place")
        )
        ranked = select(col(WebhookDeliveryRow.id), place).where(_is_due(now)).subquery()
        # Locks cannot be taken on ranked rows, so they are taken on the rows that the ranking names.
        rows = (
            await self._session.execute(
                select(WebhookDeliveryRow, WebhookEndpointRow)
                .join(WebhookEndpointRow, col(WebhookEndpointRow.id) == col(WebhookDeliveryRow.endpoint_id))
                .where(col(WebhookDeliveryRow.id).in_(select(ranked.c.id).where(ranked.c.place <= each)))
                .where(_is_due(now))
                .order_by(col(WebhookDeliveryRow.next_attempt_at), col(WebhookDeliveryRow.id))
                .limit(limit)
                .with_for_update(skip_locked=True, of=WebhookDeliveryRow)
                .execution_options(populate_existing=True)
            )
        ).all()
        for row, _ in rows:
            row.attempts += 1
            row.next_attempt_at = now + LEASE
        await self._session.flush()
        return tuple(
            ClaimedDelivery(delivery=_delivery(row), endpoint=endpoint_from_row(target)) for row, target in rows
        )

    @of_all_tenants
    async def forget_before_of_all_tenants(self, instant: datetime) -> int:
        """Delete the deliveries that ended and were made before an instant; return how many."""
        gone = await self._session.execute(
            delete(WebhookDeliveryRow)
            .where(col(WebhookDeliveryRow.status) != DeliveryStatus.PENDING.value)
            .where(col(WebhookDeliveryRow.created_at) < instant)
            .returning(col(WebhookDeliveryRow.id))
        )
        return len(gone.all())
