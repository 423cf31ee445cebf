"""What is added to the ledger afterwards: adjustments, and the periods that are closed. Append only, as the ledger."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, RowNumber, UtcDateTime


class UsageAdjustmentRow(SQLModel, table=True):
    """A signed correction. Of an event that came late it holds the whole event, and its fingerprint."""

    __tablename__ = "usage_adjustments"
    __table_args__ = (
        UniqueConstraint("tenant_id", "adjustment_id", name="uq_usage_adjustments_tenant_adjustment"),
        Index("ix_usage_adjustments_tenant_period", "tenant_id", "period"),
        Index("ix_usage_adjustments_tenant_corrects", "tenant_id", "corrects_period"),
        Index("ix_usage_adjustments_tenant_event", "tenant_id", "event_id"),
    )

    position: int | None = Field(default=None, sa_type=RowNumber, primary_key=True)
    adjustment_id: str
    tenant_id: str
    kind: str
    period: str
    corrects_period: str
    event_id: str | None
    units: int = Field(sa_type=BigInteger)
    billable_units: int = Field(sa_type=BigInteger)
    plan_id: str
    plan_version: int
    reason: str
    actor_kind: str
    actor_id: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    late_event: dict[str, Any] | None = Field(sa_type=NullableJson)
    fingerprint: bytes | None = Field(sa_type=LargeBinary)


class PeriodClosingRow(SQLModel, table=True):
    """A tenant's period has begun to close. From here on what belongs to it is settled."""

    __tablename__ = "period_closings"

    tenant_id: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    started_at: datetime = Field(sa_type=UtcDateTime)


class ClosedPeriodRow(SQLModel, table=True):
    """A tenant's period is closed: ``content`` holds its totals, its statement and what its exports come to."""

    __tablename__ = "closed_periods"

    tenant_id: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    closed_at: datetime = Field(sa_type=UtcDateTime)
    content: dict[str, Any] = Field(sa_type=NullableJson)


class ExpiredPeriodRow(SQLModel, table=True):
    """The events of a tenant's closed period are not kept any more; what they came to is."""

    __tablename__ = "expired_periods"

    tenant_id: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    expired_at: datetime = Field(sa_type=UtcDateTime)
