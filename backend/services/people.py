"""People, as they see themselves."""

from dataclasses import dataclass

from backend.domain.callers import Caller, PlatformCaller
from backend.domain.errors import Unauthenticated
from backend.domain.ids import UserId
from backend.domain.tenants import Membership, Tenant, User
from backend.services.ports import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A signed-in person: the seat that is in use, if it is one in a tenant, and all of them."""

    user: User
    seat: tuple[Membership, Tenant] | None
    seats: tuple[tuple[Membership, Tenant], ...]


class PeopleService:
    """What a person may ask about themselves."""

    def __init__(self, *, unit: UnitOfWork) -> None:
        self._unit = unit

    async def profile(self, caller: Caller | PlatformCaller) -> Profile:
        """Return who the caller is."""
        user = await self._unit.users.get(UserId(caller.credential_id))
        if user is None:
            raise Unauthenticated
        seats = await self._unit.memberships.of_user(user.id)
        seat = None
        if isinstance(caller, Caller):
            seat = next(pair for pair in seats if pair[1].id == caller.tenant_id)
        return Profile(user=user, seat=seat, seats=tuple(seats))
