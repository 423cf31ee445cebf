"""What creating requests were answered, kept for a repetition."""

from datetime import datetime

from sqlalchemy import Index, LargeBinary
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, UtcDateTime


class IdempotencyRow(SQLModel, table=True):
    """One answer under its Idempotency-Key; the body sealed, since it may hold a secret."""

    __tablename__ = "idempotency_records"
    __table_args__ = (Index("ix_idempotency_records_expires_at", "expires_at"),)

    tenant_id: str = Field(primary_key=True)
    credential_id: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: bytes = Field(sa_type=LargeBinary)
    status: int
    headers: list[list[str]] = Field(sa_type=NullableJson)
    sealed_body: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
