"""Accepting an invitation.

Somebody without an account proves the address by the token, and chooses a password. Somebody who has an account must
prove that it is theirs as well, by being signed in or with the password: a token alone, out of a forwarded message
say, puts nobody else's account anywhere.
"""

from dataclasses import dataclass

from backend.domain.audit import Action, Actor, AuditEntry
from backend.domain.callers import ActorKind, Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import (
    AlreadyMember,
    FieldError,
    Invalid,
    InvitationExpired,
    NotFound,
    ReauthenticationRequired,
    TenantSuspended,
)
from backend.domain.ids import UserId, new_id
from backend.domain.invitations import Invitation, InvitationStatus
from backend.domain.passwords import require_strong
from backend.domain.tenants import Membership, Tenant, TenantStatus, User
from backend.services.ports import OpaqueTokens, PasswordHasher, Store, UnitOfWork
from backend.services.reauthentication import Reauthentication


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """An invitation as its invitee takes it; ``caller`` is who is signed in, if anybody."""

    token: str
    password: str | None
    caller: Caller | PlatformCaller | None
    address: str
    request_id: str

    def is_by(self, user: User) -> bool:
        """Whether the invitee is signed in as that user."""
        return self.caller is not None and self.caller.kind is ActorKind.USER and self.caller.credential_id == user.id


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenSeat:
    """What an accepted invitation turned into."""

    seat: Membership
    user: User
    tenant: Tenant


class AcceptanceService:
    """What an invitee may do with an invitation. Hashes are computed while no transaction is open."""

    def __init__(
        self,
        *,
        store: Store,
        tokens: OpaqueTokens,
        passwords: PasswordHasher,
        reauthentication: Reauthentication,
        clock: Clock,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._reauthentication = reauthentication
        self._clock = clock

    async def accept(self, acceptance: Acceptance) -> TakenSeat:
        """Take the seat.

        Raises:
            NotFound: no invitation has this token. InvitationExpired: it is over.
            AlreadyMember: the invitee has a seat. TenantSuspended: nobody sits down there for now.
            ReauthenticationRequired: the address has an account, and it is not proven to be the caller's.
            WeakPassword, Invalid: the new account's password will not do, or there is none.
        """
        async with self._store.unit_of_work(read_only=True) as unit:
            invitation = await self._pending(unit, acceptance.token)
            user = await unit.users.by_email(invitation.email)
        if user is None:
            new_user = await self._new_user(invitation.email, acceptance.password)
        else:
            new_user = None
            if user.disabled or not acceptance.is_by(user):
                await self._reauthentication.require(user, acceptance.password, acceptance.address)
        async with self._store.unit_of_work() as unit:
            return await self._take_seat(unit, acceptance, new_user)

    async def _take_seat(self, unit: UnitOfWork, acceptance: Acceptance, new_user: User | None) -> TakenSeat:
        now = self._clock.now()
        invitation = await self._pending(unit, acceptance.token)
        tenant = await unit.tenants.get(invitation.tenant_id)
        if tenant is None:
            raise NotFound
        if tenant.status is TenantStatus.SUSPENDED:
            raise TenantSuspended
        user = await unit.users.by_email(invitation.email)
        if user is None and new_user is not None:
            await unit.users.add(new_user)
            user = new_user
        elif user is None or new_user is not None:
            # Somebody made or took the account meanwhile: what was proven is not about this one.
            raise ReauthenticationRequired
        if await unit.memberships.find(tenant.id, user.id) is not None:
            raise AlreadyMember
        seat = Membership(id=new_id("mem"), tenant_id=tenant.id, user_id=user.id, role=invitation.role, created_at=now)
        await unit.memberships.add(tenant.id, seat)
        await unit.invitations.mark_accepted(tenant.id, invitation.id, now)
        entry = AuditEntry(
            actor=Actor(kind=ActorKind.USER, id=user.id, address=acceptance.address, request_id=acceptance.request_id),
            action=Action.INVITATION_ACCEPTED,
            target_id=invitation.id,
            after={"member_id": seat.id, "user_id": user.id, "role": seat.role.value, "new": new_user is not None},
        )
        await unit.audit.record(tenant.id, entry)
        return TakenSeat(seat=seat, user=user, tenant=tenant)

    async def _pending(self, unit: UnitOfWork, token: str) -> Invitation:
        invitation = await unit.invitations.by_token_of_all_tenants(self._tokens.hash(token))
        if invitation is None:
            raise NotFound
        if invitation.status_at(self._clock.now()) is not InvitationStatus.PENDING:
            raise InvitationExpired
        return invitation

    async def _new_user(self, email: str, password: str | None) -> User:
        if not password:
            raise Invalid(errors=(FieldError("/password", "is needed: this address has no account yet"),))
        require_strong(password, context=(email,))
        return User(
            id=UserId(new_id("usr")),
            email=email,
            password_hash=await self._passwords.hash(password),
            disabled=False,
            platform_role=None,
            created_at=self._clock.now(),
        )
