"""What people and programs sign in with."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.api_keys import ApiKey, Environment, KeyStatus
from backend.domain.ids import KeyId, TenantId, UserId
from backend.domain.mailed_tokens import MailedToken, MailPurpose
from backend.domain.service_accounts import ServiceAccount
from backend.domain.sessions import RefreshToken, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Which keys to list; ``None`` is any."""

    status: KeyStatus | None = None
    environment: Environment | None = None


class ApiKeys(Protocol):
    """A tenant's API keys."""

    async def add(self, tenant_id: TenantId, key: ApiKey) -> None:
        """Store a new key."""
        ...

    async def get(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey | None:
        """Return one key of the tenant."""
        ...

    async def hold(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey | None:
        """Return one key of the tenant, its row locked until the unit ends."""
        ...

    async def store(self, tenant_id: TenantId, key: ApiKey) -> None:
        """Store a changed key in place of the one that is there."""
        ...

    async def by_lookup_id(self, tenant_id: TenantId, lookup_id: str) -> ApiKey | None:
        """Return the tenant's key with that id in its written form."""
        ...

    async def list(
        self, tenant_id: TenantId, wanted: KeyFilter, *, now: datetime, after: str | None, limit: int
    ) -> list[ApiKey]:
        """Return up to ``limit`` keys with an id below ``after``, newest first."""
        ...

    async def monthly_quotas(self, tenant_id: TenantId) -> dict[KeyId, int]:
        """Return the quota of each of the tenant's keys that has one of its own, revoked or not."""
        ...

    async def count_unrevoked(self, tenant_id: TenantId) -> int:
        """Count the tenant's keys that are not revoked; holds off concurrent creation until the unit ends."""
        ...

    async def revoke(self, tenant_id: TenantId, key_id: KeyId, at: datetime) -> ApiKey | None:
        """Revoke a key and return it; one revoked before keeps its first instant."""
        ...


class Sessions(Protocol):
    """Refresh-token families."""

    async def start(self, session: Session, token: RefreshToken) -> None:
        """Store a new family and its first member."""
        ...

    async def get(self, session_id: str) -> Session | None:
        """Return one family."""
        ...

    async def of_token(self, session_id: str, token_id: str) -> Session | None:
        """Return the family of an access token, unless that token was revoked."""
        ...

    async def add_token(self, token: RefreshToken) -> None:
        """Store a new member of a family."""
        ...

    async def token_by_hash(self, token_hash: bytes) -> RefreshToken | None:
        """Return the token of a hash, its row locked until the unit ends."""
        ...

    async def token(self, token_id: str) -> RefreshToken | None:
        """Return one token."""
        ...

    async def mark_rotated(self, token_id: str, successor_id: str, at: datetime) -> None:
        """Note that a token was exchanged for its successor."""
        ...

    async def touch(self, session_id: str, at: datetime) -> None:
        """Note that a family was used."""
        ...

    async def revoke(self, session_id: str, at: datetime) -> None:
        """End a family; an ended one keeps its first instant."""
        ...

    async def forget_before(self, instant: datetime) -> int:
        """Delete the families last used before an instant, with their tokens; return how many."""
        ...

    async def of_user(self, user_id: UserId) -> list[Session]:
        """Return a user's families that were not ended, the last used first."""
        ...

    async def revoke_all(self, user_id: UserId, at: datetime, *, besides: str | None = None) -> int:
        """End all of a user's families, but for one; return how many."""
        ...


class RevokedTokens(Protocol):
    """Access tokens that were revoked before their time, by their ``jti``."""

    async def add(self, token_id: str, expires_at: datetime) -> bool:
        """Revoke a token; return whether it was not before."""
        ...

    async def forget_before(self, instant: datetime) -> int:
        """Forget the tokens that expired before an instant; return how many."""
        ...


class ServiceAccounts(Protocol):
    """Programs' accounts."""

    async def add(self, account: ServiceAccount) -> None:
        """Store a new account, of its tenant or of the platform."""
        ...

    async def get(self, tenant_id: TenantId, account_id: str) -> ServiceAccount | None:
        """Return one of the tenant's accounts that is not deleted, its row locked until the unit ends."""
        ...

    async def list_of_platform(self) -> list[ServiceAccount]:
        """Return the platform's own accounts, newest first; no deleted ones."""
        ...

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[ServiceAccount]:
        """Return up to ``limit`` accounts with an id below ``after``, newest first; no deleted ones."""
        ...

    async def by_client_id_of_all_tenants(self, client_id: str) -> ServiceAccount | None:
        """Return the account that signs in under an id: only the account says which tenant."""
        ...

    async def by_token_of_all_tenants(self, client_id: str, token_id: str) -> ServiceAccount | None:
        """Return the account of an access token, unless that token was revoked."""
        ...

    async def set_secret(
        self, account_id: str, *, secret_hash: bytes, pepper_version: int, generation: int, at: datetime
    ) -> None:
        """Replace the secret."""
        ...

    async def delete(self, account_id: str, at: datetime) -> None:
        """Take the account away; its row stays, for what the ledger and the audit log say of it."""
        ...


class MailedTokens(Protocol):
    """Tokens that went out by mail."""

    async def add(self, token: MailedToken) -> None:
        """Store a new token."""
        ...

    async def by_hash(self, token_hash: bytes) -> MailedToken | None:
        """Return the token of a hash, its row locked until the unit ends."""
        ...

    async def count_since(self, purpose: MailPurpose, email: str, since: datetime) -> int:
        """Count the tokens that were made for an address since an instant."""
        ...

    async def use_up(self, purpose: MailPurpose, email: str, at: datetime) -> None:
        """Let no token for that purpose and address count any more."""
        ...

    async def forget_before(self, instant: datetime) -> int:
        """Delete the tokens that expired before an instant; return how many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSigningKey:
    """A signing key at rest: the private part is sealed."""

    kid: str
    public_pem: str
    sealed_private: bytes
    created_at: datetime
    retired_at: datetime | None


class SigningKeys(Protocol):
    """The keys that sign access tokens."""

    async def add(self, key: StoredSigningKey) -> None:
        """Store a key."""
        ...

    async def list_all(self) -> list[StoredSigningKey]:
        """Return every key, newest first."""
        ...

    async def hold(self) -> None:
        """Keep every other unit from adding keys until this one ends."""
        ...

    async def retire(self, kid: str, at: datetime) -> None:
        """Let a key sign no more; one retired before keeps its first instant."""
        ...

    async def forget_retired_before(self, instant: datetime) -> int:
        """Delete the keys that were retired before an instant; return how many."""
        ...
