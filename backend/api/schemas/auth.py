"""Logging in, on the wire."""

from pydantic import Field

from backend.api.schemas.common import Instant, Out
from backend.domain.callers import Caller
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


class MeOut(Out):
    """Who is signed in, and where."""

    id: str
    email: str
    created_at: Instant
    tenant: SeatOut = Field(description="The seat this login uses.")
    role: str
    scopes: list[str]
    memberships: list[SeatOut]

    @classmethod
    def of(cls, profile: Profile, caller: Caller) -> "MeOut":
        """Return a profile's wire form."""
        seats = [
            SeatOut(tenant_id=tenant.id, slug=tenant.slug, name=tenant.name, role=seat.role)
            for seat, tenant in profile.seats
        ]
        return cls(
            id=profile.user.id,
            email=profile.user.email,
            created_at=profile.user.created_at,
            tenant=next(seat for seat in seats if seat.tenant_id == profile.tenant.id),
            role=profile.seat.role,
            scopes=sorted(caller.scopes),
            memberships=seats,
        )
