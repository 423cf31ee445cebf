"""Tenants, their people, and what binds the two."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from backend.domain.ids import TenantId, UserId
from backend.domain.lowered_limits import NOTHING_LOWERED, LoweredLimits
from backend.domain.scopes import PlatformRole, Role

SLUG_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f.]+(?:\.[^@\s\x00-\x1f.]+)+")


class TenantStatus(StrEnum):
    """Whether a tenant's credentials count."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A customer. ``version`` grows with every change that a cached credential must notice."""

    id: TenantId
    slug: str
    name: str
    status: TenantStatus
    version: int
    created_at: datetime
    limits: LoweredLimits = NOTHING_LOWERED


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person who signs in; ``email`` is normalised, ``password_hash`` is argon2id's own string."""

    id: UserId
    email: str
    password_hash: str
    disabled: bool
    platform_role: PlatformRole | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user's seat in a tenant."""

    id: str
    tenant_id: TenantId
    user_id: UserId
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A seat as its holder signs in to it."""

    tenant_id: TenantId
    tenant_slug: str
    tenant_status: TenantStatus
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatedUser:
    """A user with their seats in all tenants, oldest first."""

    user: User
    seats: tuple[Seat, ...]


def normalise_email(email: str) -> str:
    """Return the address in the one form under which it is stored and looked up."""
    return email.strip().casefold()


def is_email(text: str) -> bool:
    """Whether a text can be an address. Only a message that arrives proves one."""
    return _EMAIL.fullmatch(text.strip()) is not None and len(text) <= 254  # noqa: PLR2004


def slug_for(name: str) -> str:
    """Return a slug made from a display name; it may be taken."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or "tenant"
