"""The store of record: one unit of work, and the repositories that are open in it.

Methods on what a tenant owns take its id first. A method that reads across tenants says so in its name.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.api_keys import ApiKey, Environment, KeyStatus
from backend.domain.audit import AuditEntry, AuditFilter, AuditRecord, ChainReport
from backend.domain.ids import KeyId, TenantId, UserId
from backend.domain.plans import Plan
from backend.domain.sessions import RefreshToken, Session
from backend.domain.tenants import Membership, Tenant, TenantStatus, User


class Tenants(Protocol):
    """Customers."""

    async def add(self, tenant: Tenant) -> None:
        """Store a new tenant.

        Raises:
            AlreadyExists: the slug is taken.
        """
        ...

    async def get(self, tenant_id: TenantId) -> Tenant | None:
        """Return one tenant."""
        ...

    async def by_slug(self, slug: str) -> Tenant | None:
        """Return the tenant of a slug."""
        ...

    async def list_all(self) -> list[Tenant]:
        """Return every tenant, by slug."""
        ...

    async def set_status(self, tenant_id: TenantId, status: TenantStatus) -> Tenant:
        """Suspend or resume; return the tenant with its new version."""
        ...


class Users(Protocol):
    """People. They belong to the platform; a membership binds them to a tenant."""

    async def add(self, user: User) -> None:
        """Store a new user.

        Raises:
            AlreadyExists: the address is taken.
        """
        ...

    async def get(self, user_id: UserId) -> User | None:
        """Return one user."""
        ...

    async def by_email(self, email: str) -> User | None:
        """Return the user of a normalised address."""
        ...

    async def set_password_hash(self, user_id: UserId, password_hash: str) -> None:
        """Replace the stored hash."""
        ...

    async def list_all(self) -> list[User]:
        """Return every user, by address."""
        ...


class Memberships(Protocol):
    """Who sits in which tenant."""

    async def add(self, tenant_id: TenantId, membership: Membership) -> None:
        """Store a seat.

        Raises:
            AlreadyExists: the user has one in this tenant.
        """
        ...

    async def find(self, tenant_id: TenantId, user_id: UserId) -> Membership | None:
        """Return a user's seat."""
        ...

    async def of_user(self, user_id: UserId) -> list[tuple[Membership, Tenant]]:
        """Return a user's seats in all tenants, oldest first."""
        ...


class Plans(Protocol):
    """Plan versions; immutable once stored."""

    async def add(self, plan: Plan) -> None:
        """Store a plan version; the same one again changes nothing."""
        ...

    async def newest(self, name: str) -> Plan | None:
        """Return the newest version of a plan."""
        ...


class Subscriptions(Protocol):
    """Which plan a tenant is on."""

    async def start(self, tenant_id: TenantId, plan_id: str, at: datetime) -> None:
        """Put the tenant on a plan from now on, ending what it was on."""
        ...

    async def current_plan(self, tenant_id: TenantId) -> Plan | None:
        """Return the plan the tenant is on."""
        ...


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

    async def by_lookup_id(self, tenant_id: TenantId, lookup_id: str) -> ApiKey | None:
        """Return the tenant's key with that id in its written form."""
        ...

    async def list(
        self, tenant_id: TenantId, wanted: KeyFilter, *, now: datetime, after: str | None, limit: int
    ) -> list[ApiKey]:
        """Return up to ``limit`` keys with an id below ``after``, newest first."""
        ...

    async def count_unrevoked(self, tenant_id: TenantId) -> int:
        """Count the tenant's keys that are not revoked; holds off concurrent creation until the unit ends."""
        ...

    async def revoke(self, tenant_id: TenantId, key_id: KeyId, at: datetime) -> ApiKey | None:
        """Revoke a key and return it; one revoked before keeps its first instant."""
        ...


class Sessions(Protocol):
    """Refresh-token families."""

    async def add(self, session: Session) -> None:
        """Store a new family."""
        ...

    async def get(self, session_id: str) -> Session | None:
        """Return one family."""
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


class AuditLog(Protocol):
    """What happened, in one chain a tenant."""

    async def record(self, tenant_id: TenantId, entry: AuditEntry) -> None:
        """Append to the tenant's chain; it stands or falls with the unit of work."""
        ...

    async def list(
        self, tenant_id: TenantId, wanted: AuditFilter, *, before_sequence: int | None, limit: int
    ) -> list[AuditRecord]:
        """Return up to ``limit`` records, newest first."""
        ...

    async def verify(self, tenant_id: TenantId) -> ChainReport:
        """Walk the whole chain; say where it breaks first, if it does."""
        ...

    def walk(self, tenant_id: TenantId) -> AsyncIterator[AuditRecord]:
        """Yield the whole chain in order, with bounded memory."""
        ...


class UnitOfWork(Protocol):
    """One transaction: committed when it ends well, rolled back when an exception leaves it."""

    @property
    def tenants(self) -> Tenants:
        """Customers."""
        ...

    @property
    def users(self) -> Users:
        """People."""
        ...

    @property
    def memberships(self) -> Memberships:
        """Seats."""
        ...

    @property
    def plans(self) -> Plans:
        """Plan versions."""
        ...

    @property
    def subscriptions(self) -> Subscriptions:
        """Who is on which plan."""
        ...

    @property
    def api_keys(self) -> ApiKeys:
        """API keys."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Logins."""
        ...

    @property
    def signing_keys(self) -> SigningKeys:
        """Token signing keys."""
        ...

    @property
    def audit(self) -> AuditLog:
        """What happened."""
        ...

    def after_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run ``action`` once the transaction is durable, before the caller gets its answer."""
        ...


class Store(Protocol):
    """Opens units of work, for services that need more than the one of their request."""

    def unit_of_work(self, *, read_only: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Open a unit; it commits when the block ends well. A read-only one never waits for writers.

        Raises:
            StoreUnavailable: the store does not answer within its bound.
        """
        ...
