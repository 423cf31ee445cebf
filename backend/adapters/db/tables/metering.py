"""What is derived from the ledger: sums by the hour, and up to where they were formed."""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import UtcDateTime


class UsageRollupRow(SQLModel, table=True):
    """The sum of an hour's events that agree in everything a summary or a statement tells apart."""

    __tablename__ = "usage_rollups"
    __table_args__ = (Index("ix_usage_rollups_tenant_period", "tenant_id", "period"),)

    tenant_id: str = Field(primary_key=True)
    hour: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    period: str = Field(primary_key=True)
    environment: str = Field(primary_key=True)
    credential_id: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    model_version: str = Field(primary_key=True)
    plan_id: str = Field(primary_key=True)
    plan_version: int = Field(primary_key=True)
    events: int = Field(sa_type=BigInteger)
    units: int = Field(sa_type=BigInteger)
    cached_units: int = Field(sa_type=BigInteger)
    billable_units: int = Field(sa_type=BigInteger)


class UsageCheckpointRow(SQLModel, table=True):
    """The last position in commit order that a derived table holds. Where row numbers are commit order, xid is 0."""

    __tablename__ = "usage_checkpoints"

    name: str = Field(primary_key=True)
    xid: int = Field(sa_type=BigInteger)
    row: int = Field(sa_type=BigInteger)
