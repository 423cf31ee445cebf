"""API keys on the wire."""

from datetime import datetime
from typing import Annotated, Literal, cast

from pydantic import Field, StringConstraints

from backend.api.schemas.common import In, Instant, InstantIn, Out, ScopeIn
from backend.domain.api_keys import ApiKey, Environment, PreviousSecret
from backend.services.api_keys import KeyChange, KeyWish

MAX_OVERLAP_S = 7 * 24 * 3600
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]

Metadata = dict[str, Annotated[str, StringConstraints(max_length=500)]]


class RateLimit(In):
    """A limit of the key's own; it never exceeds the tenant's."""

    per_minute: int = Field(ge=1, le=10_000_000, description="Rows each minute.")


class Restrictions(In):
    """What a key may do; `null` or left out is no restriction of its own."""

    models: list[Annotated[str, StringConstraints(max_length=130)]] | None = Field(
        None, min_length=1, max_length=100, description="Names, versions or aliases the key may call; all by default."
    )
    allowed_cidrs: list[Annotated[str, StringConstraints(max_length=50)]] | None = Field(
        None, min_length=1, max_length=50, description="Networks the key may be used from; any by default."
    )
    expires_at: InstantIn | None = None
    rate_limit: RateLimit | None = None
    monthly_quota: int | None = Field(None, ge=0, le=10**15, description="Rows each month, for this key alone.")


class ApiKeyIn(Restrictions):
    """What a new key should be."""

    name: Name = Field(examples=["checkout"])
    environment: Literal["live", "test"] = Field(description="Test keys are never billed.")
    scopes: list[ScopeIn] | None = Field(None, max_length=20, examples=[["predict", "models:read"]])
    metadata: Metadata = Field(default_factory=dict, max_length=50)

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


class ApiKeyChangeIn(Restrictions):
    """What should change of a key. What is left out stays as it is; `metadata` is replaced as a whole."""

    name: Name = Field("", validate_default=False)
    scopes: list[ScopeIn] = Field(default_factory=list, max_length=20)
    metadata: Metadata = Field(default_factory=dict, max_length=50)

    def to_change(self) -> KeyChange:
        """Return the fields that were sent, in the services' words."""
        change: KeyChange = {
            "name": self.name,
            "scopes": frozenset(self.scopes),
            "models": None if self.models is None else tuple(self.models),
            "allowed_cidrs": None if self.allowed_cidrs is None else tuple(self.allowed_cidrs),
            "expires_at": self.expires_at,
            "rate_per_minute": self.rate_limit.per_minute if self.rate_limit else None,
            "monthly_quota": self.monthly_quota,
            "metadata": self.metadata,
        }
        sent = {_CHANGED_AS.get(name, name) for name in self.model_fields_set}
        return cast("KeyChange", {name: value for name, value in change.items() if name in sent})


_CHANGED_AS = {"rate_limit": "rate_per_minute"}


class RotationIn(In):
    """How a key should be rotated."""

    overlap_seconds: int = Field(
        ge=0, le=MAX_OVERLAP_S, description="How long the old secret goes on; never beyond the key's own expiry."
    )


class PreviousOut(Out):
    """The secret before the last rotation."""

    valid_until: Instant
    last_used_at: Instant | None

    @classmethod
    def of(cls, previous: PreviousSecret) -> "PreviousOut":
        """Return its wire form."""
        return cls(valid_until=previous.valid_until, last_used_at=previous.last_used_at)


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
    previous: PreviousOut | None = Field(description="The secret before the last rotation, while it still verifies.")

    @classmethod
    def of(cls, key: ApiKey, now: datetime) -> "ApiKeyOut":
        """Return a key's public side."""
        overlap = key.overlap_at(now)
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
            previous=PreviousOut.of(overlap) if overlap else None,
        )


class NewApiKeyOut(ApiKeyOut):
    """A key just made: the only answer that holds its secret."""

    secret: str = Field(description="Shown this once.")

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str, now: datetime) -> "NewApiKeyOut":
        """Return a key's public side and its secret."""
        return cls(**ApiKeyOut.of(key, now).model_dump(), secret=secret)


class RotatedApiKeyOut(NewApiKeyOut):
    """A key just rotated: the only answer that holds its new secret."""

    previous: PreviousOut

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str, now: datetime) -> "RotatedApiKeyOut":
        """Return a key's public side and its new secret; what was said of the old one holds even without overlap."""
        shown = ApiKeyOut.of(key, now).model_dump(exclude={"previous"})
        if key.previous is None:
            raise ValueError("a rotated key has a secret before")
        return cls(**shown, previous=PreviousOut.of(key.previous), secret=secret)
