"""A tenant's webhooks, what is on its way to them, and what it has been told of its quota."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, UtcDateTime


class WebhookEndpointRow(SQLModel, table=True):
    """Where a tenant is told what happens; its secrets sealed."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_tenant_id", "tenant_id", "id"),)

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    url: str
    description: str
    events: list[str] | None = Field(sa_type=NullableJson)
    sealed_secret: bytes = Field(sa_type=LargeBinary)
    previous_sealed: bytes | None = Field(sa_type=LargeBinary)
    previous_valid_until: datetime | None = Field(sa_type=UtcDateTime)
    created_by: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    disabled_at: datetime | None = Field(sa_type=UtcDateTime)
    disabled_because: str | None
    failing_since: datetime | None = Field(sa_type=UtcDateTime)


class WebhookDeliveryRow(SQLModel, table=True):
    """One message on its way to one endpoint, with its attempts so far."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_endpoint", "tenant_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_due", "status", "next_attempt_at"),
    )

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    endpoint_id: str = Field(foreign_key="webhook_endpoints.id", index=True)
    message_id: str
    event: str
    body: str = Field(sa_type=Text)
    status: str
    attempts: int
    round_from: int
    created_at: datetime = Field(sa_type=UtcDateTime)
    next_attempt_at: datetime | None = Field(sa_type=UtcDateTime)
    log: list[dict[str, Any]] = Field(sa_type=NullableJson)


class UsageAlertRow(SQLModel, table=True):
    """A threshold of a quota that was reached: the constraint lets it be reached once a period."""

    __tablename__ = "usage_alerts"
    __table_args__ = (
        UniqueConstraint(
            "tenant_id", "period", "environment", "subject", "threshold", name="uq_usage_alerts_threshold"
        ),
    )

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    period: str
    environment: str
    scope: str
    subject: str
    threshold: int
    units: int = Field(sa_type=BigInteger)
    quota: int = Field(sa_type=BigInteger)
    mode: str
    reached_at: datetime = Field(sa_type=UtcDateTime)
