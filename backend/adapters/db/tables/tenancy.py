"""Tenants, their people, and what they have bought."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, UtcDateTime


class TenantRow(SQLModel, table=True):
    """A customer."""

    __tablename__ = "tenants"
    __table_args__ = (UniqueConstraint("slug", name="uq_tenants_slug"),)

    id: str = Field(primary_key=True)
    slug: str
    name: str
    status: str
    version: int
    created_at: datetime = Field(sa_type=UtcDateTime)
    lowered_limits: dict[str, Any] | None = Field(default=None, sa_type=NullableJson)


class UserRow(SQLModel, table=True):
    """A person."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("email", name="uq_users_email"),)

    id: str = Field(primary_key=True)
    email: str
    password_hash: str
    disabled: bool
    platform_role: str | None
    created_at: datetime = Field(sa_type=UtcDateTime)


class MembershipRow(SQLModel, table=True):
    """A person's seat in a tenant."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("tenant_id", "user_id", name="uq_memberships_tenant_user"),)

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    user_id: str = Field(foreign_key="users.id", index=True)
    role: str
    created_at: datetime = Field(sa_type=UtcDateTime)


class InvitationRow(SQLModel, table=True):
    """A seat on offer; its token only as a keyed hash."""

    __tablename__ = "invitations"
    __table_args__ = (
        UniqueConstraint("token_hash", name="uq_invitations_token_hash"),
        Index("ix_invitations_tenant_id", "tenant_id", "id"),
    )

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    email: str
    role: str
    token_hash: bytes = Field(sa_type=LargeBinary)
    invited_by: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    accepted_at: datetime | None = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(sa_type=UtcDateTime)


class PlanRow(SQLModel, table=True):
    """One version of a plan."""

    __tablename__ = "plans"
    __table_args__ = (UniqueConstraint("name", "version", name="uq_plans_name_version"),)

    id: str = Field(primary_key=True)
    name: str
    version: int
    rate_per_minute: int
    monthly_quota: int | None = Field(sa_type=BigInteger)
    quota_mode: str
    bills_cache_hits: bool
    max_api_keys: int
    pricing: dict[str, Any] | None = Field(sa_type=NullableJson)
    model_rates: dict[str, int] | None = Field(sa_type=NullableJson)


class SubscriptionRow(SQLModel, table=True):
    """Which plan a tenant is on, from when to when."""

    __tablename__ = "subscriptions"

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id", index=True)
    plan_id: str = Field(foreign_key="plans.id")
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(sa_type=UtcDateTime)
    enforcement: str = Field(sa_column_kwargs={"server_default": "enforce"})
