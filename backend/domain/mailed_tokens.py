"""Tokens that were mailed to an address and count once: to confirm a sign-up, or to set a forgotten password."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self, TypedDict, Unpack

from backend.domain.ids import UserId, new_id


class MailPurpose(StrEnum):
    """What a token is good for; it is good for nothing else."""

    SIGN_UP = "sign-up"
    RESET = "reset"


LIFETIMES = {MailPurpose.SIGN_UP: timedelta(hours=24), MailPurpose.RESET: timedelta(hours=1)}
LONGEST_LIFETIME = max(LIFETIMES.values())
MOST_PER_HOUR = 5
"""Messages to one address for one purpose: more would only fill somebody's mailbox."""


class Said(TypedDict, total=False):
    """What a token is for beyond its purpose; see :class:`MailedToken`."""

    user_id: UserId | None
    password_hash: str | None
    tenant_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MailedToken:
    """A stored token, of itself only a keyed hash.

    A row is written for an unknown address too, so that its answer takes the same time; no message carries its token.
    ``user_id`` is whose password may be set; ``password_hash`` and ``tenant_name`` are what a sign-up asked for.
    """

    id: str
    purpose: MailPurpose
    email: str
    token_hash: bytes
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None
    user_id: UserId | None = None
    password_hash: str | None = None
    tenant_name: str | None = None

    @classmethod
    def fresh(cls, purpose: MailPurpose, email: str, token_hash: bytes, at: datetime, **said: Unpack[Said]) -> Self:
        """Return the record of a token that is made now; it lives as long as its purpose allows."""
        expires_at = at + LIFETIMES[purpose]
        return cls(
            id=new_id("mtk"),
            purpose=purpose,
            email=email,
            token_hash=token_hash,
            created_at=at,
            expires_at=expires_at,
            used_at=None,
            **said,
        )

    def is_good(self, purpose: MailPurpose, instant: datetime) -> bool:
        """Whether the token still counts for this purpose."""
        return self.purpose is purpose and self.used_at is None and instant < self.expires_at
