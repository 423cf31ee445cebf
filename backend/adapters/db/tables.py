"""The tables, as SQLModel rows. Alembic's migrations create them; ``tests`` hold the two to each other.

What only one dialect has (triggers, grants, the ledger's ``commit_xid``) stands in the migrations.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """Instants: aware on both sides. SQLite keeps no zone, so UTC is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store UTC; a naive instant is a bug and is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware instant in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


NullableJson = JSON(none_as_null=True)
# SQLite fills only an INTEGER PRIMARY KEY by itself.
RowNumber = BigInteger().with_variant(Integer, "sqlite")


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


class SubscriptionRow(SQLModel, table=True):
    """Which plan a tenant is on, from when to when."""

    __tablename__ = "subscriptions"

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id", index=True)
    plan_id: str = Field(foreign_key="plans.id")
    started_at: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(sa_type=UtcDateTime)


class ApiKeyRow(SQLModel, table=True):
    """An API key; its secret only as a keyed hash."""

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("lookup_id", name="uq_api_keys_lookup_id"),
        Index("ix_api_keys_tenant_id", "tenant_id", "id"),
    )

    id: str = Field(primary_key=True)
    tenant_id: str = Field(foreign_key="tenants.id")
    lookup_id: str
    name: str
    environment: str
    secret_hash: bytes = Field(sa_type=LargeBinary)
    pepper_version: int
    last4: str
    scopes: str
    models: list[str] | None = Field(sa_type=NullableJson)
    allowed_cidrs: list[str] | None = Field(sa_type=NullableJson)
    rate_per_minute: int | None
    monthly_quota: int | None = Field(sa_type=BigInteger)
    # "metadata" is taken by the declarative base.
    labels: dict[str, str] = Field(sa_type=NullableJson)
    generation: int
    version: int
    created_by: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime | None = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(sa_type=UtcDateTime)


class SessionRow(SQLModel, table=True):
    """A login: a family of refresh tokens."""

    __tablename__ = "sessions"

    id: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="users.id", index=True)
    tenant_id: str | None = Field(foreign_key="tenants.id")
    scope: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    last_used_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(sa_type=UtcDateTime)


class RefreshTokenRow(SQLModel, table=True):
    """One refresh token, as a hash."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (UniqueConstraint("token_hash", name="uq_refresh_tokens_token_hash"),)

    id: str = Field(primary_key=True)
    session_id: str = Field(foreign_key="sessions.id", index=True)
    token_hash: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    rotated_at: datetime | None = Field(sa_type=UtcDateTime)
    successor_id: str | None


class SigningKeyRow(SQLModel, table=True):
    """A token signing key; the private part sealed."""

    __tablename__ = "signing_keys"

    kid: str = Field(primary_key=True)
    public_pem: str
    sealed_private: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    retired_at: datetime | None = Field(sa_type=UtcDateTime)


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
        Index("ix_usage_events_tenant_period", "tenant_id", "period", "environment"),
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
