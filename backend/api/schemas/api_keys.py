"""API keys on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from backend.api.schemas.common import In, Instant, Out
from backend.domain.api_keys import ApiKey, Environment
from backend.domain.scopes import Scope
from backend.services.api_keys import KeyWish

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]


class RateLimit(In):
    """A limit of the key's own; it never exceeds the tenant's."""

    per_minute: int = Field(ge=1, le=10_000_000, description="Rows each minute.")


class ApiKeyIn(In):
    """What a new key should be."""

    name: Name = Field(examples=["checkout"])
    environment: Literal["live", "test"] = Field(description="Test keys are never billed.")
    scopes: list[Scope] | None = Field(None, max_length=20, strict=False, examples=[["predict", "models:read"]])
    models: list[Annotated[str, StringConstraints(max_length=130)]] | None = Field(
        None, min_length=1, max_length=100, description="Names, versions or aliases the key may call; all by default."
    )
    allowed_cidrs: list[Annotated[str, StringConstraints(max_length=50)]] | None = Field(
        None, min_length=1, max_length=50, description="Networks the key may be used from; any by default."
    )
    expires_at: AwareDatetime | None = Field(None, strict=False)
    rate_limit: RateLimit | None = None
    monthly_quota: int | None = Field(None, ge=0, le=10**15, description="Rows each month, for this key alone.")
    metadata: dict[str, Annotated[str, StringConstraints(max_length=500)]] = Field(default_factory=dict, max_length=50)

    def to_wish(self) -> KeyWish:
        """Return the same in the services' words."""
        return KeyWish(
            name=self.name,
            environment=Environment(self.environment),
            scopes=None if self.scopes is None else frozenset(self.scopes),
            models=None if self.models is None else tuple(self.models),
            allowed_cidrs=None if self.allowed_cidrs is None else tuple(self.allowed_cidrs),
            expires_at=self.expires_at,
            rate_per_minute=self.rate_limit.per_minute if self.rate_limit else None,
            monthly_quota=self.monthly_quota,
            metadata=self.metadata,
        )


class ApiKeyOut(Out):
    """A key as it may be shown again."""

    id: str
    name: str
    environment: str
    prefix: str
    last4: str
    status: str
    scopes: list[str]
    models: list[str] | None
    allowed_cidrs: list[str] | None
    rate_limit: RateLimit | None
    monthly_quota: int | None
    metadata: dict[str, str]
    generation: int
    created_by: str
    created_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None
    last_used_at: Instant | None

    @classmethod
    def of(cls, key: ApiKey, now: datetime) -> "ApiKeyOut":
        """Return a key's public side."""
        return cls(
            id=key.id,
            name=key.name,
            environment=key.environment,
            prefix=key.prefix,
            last4=key.last4,
            status=key.status_at(now),
            scopes=sorted(key.scopes),
            models=None if key.models is None else list(key.models),
            allowed_cidrs=None if key.allowed_cidrs is None else list(key.allowed_cidrs),
            rate_limit=None if key.rate_per_minute is None else RateLimit(per_minute=key.rate_per_minute),
            monthly_quota=key.monthly_quota,
            metadata=key.metadata,
            generation=key.generation,
            created_by=key.created_by,
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
        )


class NewApiKeyOut(ApiKeyOut):
    """A key just made: the only answer that holds its secret."""

    secret: str = Field(description="Shown this once.")

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str, now: datetime) -> "NewApiKeyOut":
        """Return a key's public side and its secret."""
        return cls(**ApiKeyOut.of(key, now).model_dump(), secret=secret)
