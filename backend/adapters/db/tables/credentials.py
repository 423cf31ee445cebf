"""What people and programs sign in with; secrets only as hashes, or sealed."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint
from sqlmodel import Field, SQLModel

from backend.adapters.db.tables.columns import NullableJson, UtcDateTime


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
    # Of the secret before the last rotation.
    previous_hash: bytes | None = Field(sa_type=LargeBinary)
    previous_pepper_version: int | None
    previous_valid_until: datetime | None = Field(sa_type=UtcDateTime)
    previous_last_used_at: datetime | None = Field(sa_type=UtcDateTime)


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
    address: str | None
    user_agent: str | None


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


class RevokedTokenRow(SQLModel, table=True):
    """An access token that was revoked before its time, by its ``jti``: a random name, which opens nothing."""

    __tablename__ = "revoked_tokens"
    __table_args__ = (Index("ix_revoked_tokens_expires_at", "expires_at"),)

    id: str = Field(primary_key=True)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class ServiceAccountRow(SQLModel, table=True):
    """A program's account, in a tenant or above all of them."""

    __tablename__ = "service_accounts"
    __table_args__ = (Index("ix_service_accounts_tenant_id", "tenant_id", "id"),)

    id: str = Field(primary_key=True)
    tenant_id: str | None = Field(foreign_key="tenants.id")
    name: str
    scopes: str
    platform_role: str | None
    secret_hash: bytes = Field(sa_type=LargeBinary)
    pepper_version: int
    generation: int
    created_by: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    rotated_at: datetime | None = Field(sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(sa_type=UtcDateTime)


class MailedTokenRow(SQLModel, table=True):
    """A token that went out by mail, as a keyed hash. No foreign key: it may name an address that nobody has."""

    __tablename__ = "mailed_tokens"
    __table_args__ = (
        UniqueConstraint("token_hash", name="uq_mailed_tokens_token_hash"),
        Index("ix_mailed_tokens_email", "email", "purpose"),
    )

    id: str = Field(primary_key=True)
    purpose: str
    email: str
    token_hash: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    used_at: datetime | None = Field(sa_type=UtcDateTime)
    user_id: str | None
    password_hash: str | None
    tenant_name: str | None


class SigningKeyRow(SQLModel, table=True):
    """A token signing key; the private part sealed."""

    __tablename__ = "signing_keys"

    kid: str = Field(primary_key=True)
    public_pem: str
    sealed_private: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(sa_type=UtcDateTime)
    retired_at: datetime | None = Field(sa_type=UtcDateTime)
