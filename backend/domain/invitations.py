"""Invitations: a seat offered to an address, taken once by whoever holds the token that was mailed there."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from backend.domain.ids import TenantId
from backend.domain.scopes import Role

LIFETIME = timedelta(days=7)


class InvitationStatus(StrEnum):
    """Where an invitation is in its life."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A stored invitation; of its token only a keyed hash."""

    id: str
    tenant_id: TenantId
    email: str
    role: Role
    token_hash: bytes
    invited_by: str
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None

    def status_at(self, instant: datetime) -> InvitationStatus:
        """Return where the invitation is in its life at that instant."""
        if self.accepted_at is not None:
            return InvitationStatus.ACCEPTED
        if self.revoked_at is not None:
            return InvitationStatus.REVOKED
        return InvitationStatus.PENDING if instant < self.expires_at else InvitationStatus.EXPIRED


def audit_view(invitation: Invitation) -> dict[str, Any]:
    """Return what the audit log keeps of an invitation."""
    return {"email": invitation.email, "role": invitation.role.value, "expires_at": invitation.expires_at.isoformat()}
