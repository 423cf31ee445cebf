"""What outside billers know of tenants."""

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import UtcDateTime


class BillerCustomerRow(SQLModel, table=True):
    """Under which id an outside biller knows a tenant."""

    __tablename__ = "biller_customers"

    tenant_id: str = Field(primary_key=True, foreign_key="tenants.id")
    customer_id: str


class UsagePushRow(SQLModel, table=True):
    """How far a biller was told of a tenant's period."""

    __tablename__ = "usage_pushes"

    tenant_id: str = Field(primary_key=True, foreign_key="tenants.id")
    biller: str = Field(primary_key=True)
    period: str = Field(primary_key=True)
    customer_id: str
    number: int
    total: int = Field(sa_type=BigInteger)
    read_at: datetime = Field(sa_type=UtcDateTime)
    is_final: bool
    taken_at: datetime | None = Field(sa_type=UtcDateTime)
    attempts: int
    next_attempt_at: datetime | None = Field(sa_type=UtcDateTime)
    last_failure: str | None
