"""Service accounts: programs that sign in with a client id and a secret (RFC 6749 section 4.4)."""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backend.domain.ids import TenantId
from backend.domain.scopes import PlatformRole, Scope

ID_PREFIX = "sa"
SECRET_PREFIX = "fs_"  # noqa: S105  # the beginning of every secret, not one


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """A program's account in a tenant, or with ``platform_role`` above all tenants (``tenant_id`` is ``None``).

    Its id is the client id. Access tokens carry ``generation``: with a new secret those of the old one are refused.
    """

    id: str
    tenant_id: TenantId | None
    name: str
    scopes: frozenset[Scope]
    platform_role: PlatformRole | None
    secret_hash: bytes
    pepper_version: int
    generation: int
    created_by: str
    created_at: datetime
    rotated_at: datetime | None
    deleted_at: datetime | None


def mint_secret() -> str:
    """Return a fresh secret of 256 bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def is_service_account(subject: str) -> bool:
    """Whether a token's subject is a program rather than a person."""
    return subject.startswith(f"{ID_PREFIX}_")


def audit_view(account: ServiceAccount) -> dict[str, Any]:
    """Return what the audit log keeps of an account: nothing secret, nothing derived from a secret."""
    return {
        "name": account.name,
        "scopes": sorted(account.scopes),
        "platform_role": account.platform_role.value if account.platform_role else None,
        "generation": account.generation,
    }
