"""What is only ever added to: the audit log and the ledger."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, RowNumber, UtcDateTime


class AuditRow(SQLModel, table=True):
    """The audit log: append only, one chain a tenant. No foreign keys: it outlives what it tells of."""

    __tablename__ = "audit_log"
    __table_args__ = (UniqueConstraint("tenant_id", "sequence", name="uq_audit_log_tenant_sequence"),)

    id: str = Field(primary_key=True)
    tenant_id: str
    sequence: int
    at: datetime = Field(sa_type=UtcDateTime)
    actor_kind: str
    actor_id: str
    actor_address: str | None
    request_id: str | None
    action: str
    target_id: str
    before: dict[str, Any] = Field(sa_type=NullableJson)
    after: dict[str, Any] = Field(sa_type=NullableJson)
    previous_hash: bytes = Field(sa_type=LargeBinary)
    hash: bytes = Field(sa_type=LargeBinary)


class UsageEventRow(SQLModel, table=True):
    """The ledger: append only. No foreign keys, so that nothing that is deleted elsewhere can touch it."""

    __tablename__ = "usage_events"
    __table_args__ = (
        UniqueConstraint("tenant_id", "event_id", name="uq_usage_events_tenant_event"),
        Index("ix_usage_events_tenant_occurred", "tenant_id", "occurred_at"),
    )

    position: int | None = Field(default=None, sa_type=RowNumber, primary_key=True)
    event_id: str
    tenant_id: str
    credential_id: str
    environment: str
    model: str
    model_version: str
    units: int
    cached_units: int
    billable_units: int
    reason: str
    plan_id: str
    plan_version: int
    request_id: str
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    period: str
    fingerprint: bytes = Field(sa_type=LargeBinary)
    stored_at: datetime = Field(sa_type=UtcDateTime)
