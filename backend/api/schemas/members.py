"""Members, invitations and the tenant they belong to, on the wire."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from backend.api.schemas.common import In, Instant, Out
from backend.domain.invitations import Invitation
from backend.domain.scopes import Role
from backend.services.acceptances import TakenSeat
from backend.services.members import Member
from backend.services.own_tenant import OwnTenant

# No control characters and no line breaks: names stand in mail headers and logs.
DisplayName = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
    ),
]
Email = Annotated[str, StringConstraints(min_length=3, max_length=254)]
Password = Annotated[str, StringConstraints(max_length=1024)]
MailedTokenText = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class TenantOut(Out):
    """The caller's own tenant."""

    id: str
    slug: str
    name: str
    status: str
    plan: str | None
    created_at: Instant

    @classmethod
    def of(cls, own: OwnTenant) -> "TenantOut":
        """Return a tenant's wire form."""
        tenant = own.tenant
        return cls(
            id=tenant.id,
            slug=tenant.slug,
            name=tenant.name,
            status=tenant.status,
            plan=own.plan.name if own.plan else None,
            created_at=tenant.created_at,
        )


class TenantChangeIn(In):
    """What a tenant may change of itself."""

    name: DisplayName = Field(examples=["Acme"])


class MemberOut(Out):
    """A seat and who sits there."""

    id: str
    user_id: str
    email: str
    role: str
    disabled: bool
    created_at: Instant

    @classmethod
    def of(cls, member: Member) -> "MemberOut":
        """Return a member's wire form."""
        return cls(
            id=member.seat.id,
            user_id=member.user.id,
            email=member.user.email,
            role=member.seat.role,
            disabled=member.user.disabled,
            created_at=member.seat.created_at,
        )


class MemberChangeIn(In):
    """What may be changed of a member."""

    role: Role = Field(strict=False, examples=["developer"])


class InvitationIn(In):
    """A seat on offer."""

    email: Email = Field(examples=["ada@example.com"])
    role: Role = Field(strict=False, examples=["developer"])


class InvitationOut(Out):
    """An invitation; its token stands in the message alone."""

    id: str
    email: str
    role: str
    status: str
    invited_by: str
    created_at: Instant
    expires_at: Instant
    accepted_at: Instant | None
    revoked_at: Instant | None

    @classmethod
    def of(cls, invitation: Invitation, now: datetime) -> "InvitationOut":
        """Return an invitation's wire form."""
        return cls(
            id=invitation.id,
            email=invitation.email,
            role=invitation.role,
            status=invitation.status_at(now),
            invited_by=invitation.invited_by,
            created_at=invitation.created_at,
            expires_at=invitation.expires_at,
            accepted_at=invitation.accepted_at,
            revoked_at=invitation.revoked_at,
        )


class AcceptIn(In):
    """An invitee's answer."""

    token: MailedTokenText
    password: Password | None = Field(
        None, description="A new account's password; or the account's own, from somebody who is not signed in to it."
    )


class AcceptedOut(Out):
    """The seat that was taken."""

    id: str
    user_id: str
    email: str
    role: str
    tenant_id: str
    tenant_slug: str
    created_at: Instant

    @classmethod
    def of(cls, taken: TakenSeat) -> "AcceptedOut":
        """Return a taken seat's wire form."""
        return cls(
            id=taken.seat.id,
            user_id=taken.user.id,
            email=taken.user.email,
            role=taken.seat.role,
            tenant_id=taken.tenant.id,
            tenant_slug=taken.tenant.slug,
            created_at=taken.seat.created_at,
        )
