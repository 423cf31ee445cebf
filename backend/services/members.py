"""Members: who sits in a tenant, and as what."""

from dataclasses import dataclass, replace

from backend.domain.attenuation import require_grantable
from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller
from backend.domain.errors import LastOwner, NotFound
from backend.domain.scopes import Role
from backend.domain.tenants import Membership, User
from backend.services.ports import CursorCodec, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A seat and who sits there."""

    seat: Membership
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPage:
    """Members, oldest first."""

    members: tuple[Member, ...]
    next_cursor: str | None


class MemberService:
    """What a tenant may do with its members. A change counts on the next request: each one reads the seat."""

    def __init__(self, *, unit: UnitOfWork, cursors: CursorCodec) -> None:
        self._unit = unit
        self._cursors = cursors

    async def list(self, caller: Caller, *, cursor: str | None, limit: int) -> MemberPage:
        """Return a page of the tenant's members."""
        purpose = f"members:{caller.tenant_id}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.memberships.list(caller.tenant_id, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1][0].id) if len(found) > limit else None
        members = tuple(Member(seat=seat, user=user) for seat, user in found[:limit])
        return MemberPage(members=members, next_cursor=next_cursor)

    async def set_role(self, caller: Caller, member_id: str, role: Role) -> Member:
        """Seat a member elsewhere.

        Raises:
            NotFound: no such member, or another tenant's.
            RoleNotGrantable: the present or the wanted role is above the caller's own.
            LastOwner: nobody would be left to govern the tenant.
        """
        member = await self._held(caller, member_id)
        self._require_grantable(caller, role)
        if role is member.seat.role:
            return member
        await self._require_another_owner(member)
        await self._unit.memberships.set_role(caller.tenant_id, member_id, role)
        changed = replace(member, seat=replace(member.seat, role=role))
        await self._record(caller, Action.MEMBER_UPDATED, before=member, after=changed)
        return changed

    async def remove(self, caller: Caller, member_id: str) -> None:
        """Take a member's seat away; their logins in this tenant end with it.

        Raises:
            NotFound: no such member, or another tenant's.
            RoleNotGrantable: the member's role is above the caller's own.
            LastOwner: nobody would be left to govern the tenant.
        """
        member = await self._held(caller, member_id)
        await self._require_another_owner(member)
        await self._unit.memberships.remove(caller.tenant_id, member_id)
        await self._record(caller, Action.MEMBER_REMOVED, before=member)

    async def _held(self, caller: Caller, member_id: str) -> Member:
        # Two owners who demote each other at once must not both find the other one still there.
        await self._unit.tenants.hold(caller.tenant_id)
        found = await self._unit.memberships.get(caller.tenant_id, member_id)
        if found is None:
            raise NotFound
        member = Member(seat=found[0], user=found[1])
        self._require_grantable(caller, member.seat.role)
        return member

    async def _require_another_owner(self, member: Member) -> None:
        if member.seat.role is not Role.OWNER:
            return
        if await self._unit.memberships.count_owners(member.seat.tenant_id, besides=member.seat.id) == 0:
            raise LastOwner

    @staticmethod
    def _require_grantable(caller: Caller, role: Role) -> None:
        require_grantable(role, grantor_role=caller.role, grantor_scopes=caller.scopes)

    async def _record(self, caller: Caller, action: Action, *, before: Member, after: Member | None = None) -> None:
        entry = AuditEntry(
            actor=caller.actor,
            action=action,
            target_id=before.seat.id,
            before={"user_id": before.user.id, "role": before.seat.role.value},
            after={"user_id": after.user.id, "role": after.seat.role.value} if after else {},
        )
        await self._unit.audit.record(caller.tenant_id, entry)
