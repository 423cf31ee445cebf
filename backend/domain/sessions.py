"""Logins: a session is a family of refresh tokens, of which one at a time is current."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.domain.ids import TenantId, UserId

IDLE_LIFETIME = timedelta(days=14)
ABSOLUTE_LIFETIME = timedelta(days=90)
REUSE_LEEWAY = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login of one user in one tenant (``None``: on the platform)."""

    id: str
    user_id: UserId
    tenant_id: TenantId | None
    scope: str
    created_at: datetime
    last_used_at: datetime
    revoked_at: datetime | None
    address: str | None = None
    user_agent: str | None = None

    def is_alive(self, instant: datetime) -> bool:
        """Whether the family may still be refreshed: not revoked, not idle for too long, not too old."""
        return (
            self.revoked_at is None
            and instant < self.last_used_at + IDLE_LIFETIME
            and instant < self.created_at + ABSOLUTE_LIFETIME
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """One member of a family, at rest as a hash. ``rotated_at`` is when it was exchanged for ``successor_id``."""

    id: str
    session_id: str
    token_hash: bytes
    created_at: datetime
    rotated_at: datetime | None
    successor_id: str | None
