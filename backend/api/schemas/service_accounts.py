"""Service accounts on the wire."""

from pydantic import Field

from backend.api.schemas.common import In, Instant, Out, ScopeIn
from backend.api.schemas.members import DisplayName
from backend.domain.service_accounts import ServiceAccount


class ServiceAccountIn(In):
    """What a new service account should be."""

    name: DisplayName = Field(examples=["nightly billing"])
    scopes: list[ScopeIn] = Field(min_length=1, max_length=20, examples=[["usage:read"]])


class ServiceAccountOut(Out):
    """A service account as it may be shown again."""

    id: str
    client_id: str = Field(description="What it signs in with, at the token endpoint.")
    name: str
    scopes: list[str]
    generation: int
    created_by: str
    created_at: Instant
    rotated_at: Instant | None

    @classmethod
    def of(cls, account: ServiceAccount) -> "ServiceAccountOut":
        """Return an account's public side."""
        return cls(
            id=account.id,
            client_id=account.id,
            name=account.name,
            scopes=sorted(account.scopes),
            generation=account.generation,
            created_by=account.created_by,
            created_at=account.created_at,
            rotated_at=account.rotated_at,
        )


class NewServiceAccountOut(ServiceAccountOut):
    """An account with a secret just made: the only answer that holds it."""

    client_secret: str = Field(description="Shown this once.")

    @classmethod
    def with_secret(cls, account: ServiceAccount, secret: str) -> "NewServiceAccountOut":
        """Return an account's public side and its secret."""
        return cls(**ServiceAccountOut.of(account).model_dump(), client_secret=secret)
