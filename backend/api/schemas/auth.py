"""Logging in, on the wire."""

from pydantic import Field

from backend.api.schemas.common import In, Instant, Out
from backend.api.schemas.members import DisplayName, Email, MailedTokenText, Password
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.sessions import Session
from backend.domain.tenants import Membership, Tenant
from backend.services.people import Profile


class TokenOut(Out):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105
    expires_in: int
    refresh_token: str | None = None
    scope: str


class SeatOut(Out):
    """A seat in a tenant."""

    tenant_id: str
    slug: str
    name: str
    role: str

    @classmethod
    def of(cls, seat: Membership, tenant: Tenant) -> "SeatOut":
        """Return a seat's wire form."""
        return cls(tenant_id=tenant.id, slug=tenant.slug, name=tenant.name, role=seat.role)


class MeOut(Out):
    """Who is signed in, and where."""

    id: str
    email: str
    created_at: Instant
    tenant: SeatOut | None = Field(description="The seat this login uses; none on the platform.")
    role: str
    scopes: list[str]
    memberships: list[SeatOut]

    @classmethod
    def of(cls, profile: Profile, caller: Caller | PlatformCaller) -> "MeOut":
        """Return a profile's wire form."""
        return cls(
            id=profile.user.id,
            email=profile.user.email,
            created_at=profile.user.created_at,
            tenant=SeatOut.of(*profile.seat) if profile.seat else None,
            role=caller.role or "",
            scopes=sorted(caller.scopes),
            memberships=[SeatOut.of(seat, tenant) for seat, tenant in profile.seats],
        )


class SessionOut(Out):
    """One of the caller's logins."""

    id: str
    tenant_id: str | None
    created_at: Instant
    last_used_at: Instant
    current: bool = Field(description="Whether this very request came from it.")
    address: str | None = Field(description="Where it signed in from.")
    user_agent: str | None

    @classmethod
    def of(cls, session: Session, caller: Caller | PlatformCaller) -> "SessionOut":
        """Return a login's wire form."""
        return cls(
            id=session.id,
            tenant_id=session.tenant_id,
            created_at=session.created_at,
            last_used_at=session.last_used_at,
            current=session.id == caller.session_id,
            address=session.address,
            user_agent=session.user_agent,
        )


class PasswordChangeIn(In):
    """A new password, and the proof that it is the account's owner who sets it."""

    current_password: Password | None = None
    new_password: Password


class ForgotIn(In):
    """Whose password is forgotten."""

    email: Email = Field(examples=["ada@example.com"])


class ResetIn(In):
    """A new password under a mailed token."""

    token: MailedTokenText
    new_password: Password


class RegisterIn(In):
    """Who signs up."""

    email: Email = Field(examples=["ada@example.com"])
    password: Password
    tenant_name: DisplayName = Field(examples=["Acme"])


class ConfirmIn(In):
    """The token that proves the address."""

    token: MailedTokenText


class AcceptedForDelivery(Out):
    """The same, whether or not the address is known."""

    detail: str = "If that is possible for this address, a message is on its way."


class ConfirmedOut(Out):
    """The tenant that was made; its owner can sign in."""

    tenant_id: str
    tenant_slug: str
    tenant_name: str
