"""Invitations: offered by a member, mailed to an address."""

from dataclasses import dataclass
from datetime import timedelta

from backend.domain.attenuation import Reach, require_grantable, require_within
from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller
from backend.domain.clock import Clock
from backend.domain.errors import AlreadyMember, FieldError, Invalid, NotFound, TooMany
from backend.domain.ids import new_id
from backend.domain.invitations import LIFETIME, Invitation, InvitationStatus, audit_view
from backend.domain.mail import Mail, invitation_mail
from backend.domain.scopes import ROLE_SCOPES, Role
from backend.domain.tenants import is_email, normalise_email
from backend.services.ports import CursorCodec, OpaqueTokens, Outbox, UnitOfWork

MOST_PER_HOUR = 100
"""Invitations of one tenant: each is a message in somebody's mailbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationPage:
    """Invitations, newest first."""

    invitations: tuple[Invitation, ...]
    next_cursor: str | None


class InvitationService:
    """What a tenant may do with invitations."""

    def __init__(
        self,
        *,
        unit: UnitOfWork,
        tokens: OpaqueTokens,
        outbox: Outbox,
        cursors: CursorCodec,
        clock: Clock,
        public_url: str,
    ) -> None:
        self._unit = unit
        self._tokens = tokens
        self._outbox = outbox
        self._cursors = cursors
        self._clock = clock
        self._public_url = public_url

    async def create(self, caller: Caller, *, email: str, role: Role) -> Invitation:
        """Offer a seat and mail the token. What was open for the address before counts no more: this is a re-send too.

        Raises:
            RoleNotGrantable, ScopeExceedsGrantor: the seat would be wider than whoever offers it.
            AlreadyMember: the address has a seat.
            TooMany: the tenant invites too many at once.
            Invalid: the address is none.
        """
        require_grantable(role, grantor_role=caller.role, grantor_scopes=caller.scopes)
        require_within(Reach(scopes=ROLE_SCOPES[role]), caller.reach)
        if not is_email(email):
            raise Invalid(errors=(FieldError("/email", "is not an e-mail address"),))
        token = self._tokens.mint()
        invitation = self._fresh(caller, normalise_email(email), role, token)
        # Two invitations to one address at once must not both stay open.
        await self._unit.tenants.hold(caller.tenant_id)
        tenant = await self._unit.tenants.get(caller.tenant_id)
        if tenant is None:
            raise NotFound
        await self._require_room(invitation)
        await self._unit.invitations.revoke_pending(tenant.id, invitation.email, invitation.created_at)
        await self._unit.invitations.add(tenant.id, invitation)
        await self._record(caller, Action.INVITATION_CREATED, after=invitation)
        self._post_after_commit(
            invitation_mail(
                to=invitation.email, tenant=tenant.name, role=role, public_url=self._public_url, token=token
            )
        )
        return invitation

    async def list(self, caller: Caller, *, cursor: str | None, limit: int) -> InvitationPage:
        """Return a page of the tenant's invitations."""
        purpose = f"invitations:{caller.tenant_id}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.invitations.list(caller.tenant_id, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        return InvitationPage(invitations=tuple(found[:limit]), next_cursor=next_cursor)

    async def revoke(self, caller: Caller, invitation_id: str) -> None:
        """Take an invitation back. One that is over already stays as it is.

        Raises:
            NotFound: no such invitation, or another tenant's.
        """
        now = self._clock.now()
        await self._unit.tenants.hold(caller.tenant_id)
        invitation = await self._unit.invitations.get(caller.tenant_id, invitation_id)
        if invitation is None:
            raise NotFound
        if invitation.status_at(now) is InvitationStatus.PENDING:
            await self._unit.invitations.revoke(caller.tenant_id, invitation.id, now)
            await self._record(caller, Action.INVITATION_REVOKED, before=invitation)

    async def _require_room(self, wanted: Invitation) -> None:
        user = await self._unit.users.by_email(wanted.email)
        if user is not None and await self._unit.memberships.find(wanted.tenant_id, user.id) is not None:
            raise AlreadyMember
        an_hour_ago = wanted.created_at - timedelta(hours=1)
        if await self._unit.invitations.count_since(wanted.tenant_id, an_hour_ago) >= MOST_PER_HOUR:
            raise TooMany("Too many invitations in the last hour.", retry_after_s=600)

    def _fresh(self, caller: Caller, email: str, role: Role, token: str) -> Invitation:
        now = self._clock.now()
        return Invitation(
            id=new_id("inv"),
            tenant_id=caller.tenant_id,
            email=email,
            role=role,
            token_hash=self._tokens.hash(token),
            invited_by=caller.credential_id,
            created_at=now,
            expires_at=now + LIFETIME,
            accepted_at=None,
            revoked_at=None,
        )

    def _post_after_commit(self, mail: Mail) -> None:
        async def post() -> None:
            self._outbox.post(mail)

        self._unit.after_commit(post)

    async def _record(
        self, caller: Caller, action: Action, *, before: Invitation | None = None, after: Invitation | None = None
    ) -> None:
        entry = AuditEntry.of_change(caller.actor, action, audit_view, before, after)
        await self._unit.audit.record(caller.tenant_id, entry)
