"""Invitations in SQL."""

from datetime import datetime

from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import InvitationRow
from backend.domain.ids import TenantId
from backend.domain.invitations import Invitation
from backend.domain.scopes import Role


def _invitation(row: InvitationRow) -> Invitation:
    return Invitation(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        email=row.email,
        role=Role(row.role),
        token_hash=row.token_hash,
        invited_by=row.invited_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
        revoked_at=row.revoked_at,
    )


@tenant_rows
class SqlInvitations:
    """Seats that a tenant offers."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, invitation: Invitation) -> None:
        """Store a new invitation."""
        self._session.add(
            InvitationRow(
                id=invitation.id,
                tenant_id=tenant_id,
                email=invitation.email,
                role=invitation.role,
                token_hash=invitation.token_hash,
                invited_by=invitation.invited_by,
                created_at=invitation.created_at,
                expires_at=invitation.expires_at,
                accepted_at=invitation.accepted_at,
                revoked_at=invitation.revoked_at,
            )
        )
        await self._session.flush()

    async def get(self, tenant_id: TenantId, invitation_id: str) -> Invitation | None:
        """Return one of the tenant's invitations."""
        row = await self._session.scalar(
            select(InvitationRow)
            .where(col(InvitationRow.tenant_id) == tenant_id)
            .where(col(InvitationRow.id) == invitation_id)
        )
        return _invitation(row) if row else None

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[Invitation]:
        """Return up to ``limit`` invitations with an id below ``after``, newest first."""
        query = select(InvitationRow).where(col(InvitationRow.tenant_id) == tenant_id)
        if after is not None:
            query = query.where(col(InvitationRow.id) < after)
        rows = await self._session.scalars(query.order_by(col(InvitationRow.id).desc()).limit(limit))
        return [_invitation(row) for row in rows]

    async def count_since(self, tenant_id: TenantId, since: datetime) -> int:
        """Count the invitations that the tenant made since an instant."""
        count = await self._session.scalar(
            select(func.count())
            .select_from(InvitationRow)
            .where(col(InvitationRow.tenant_id) == tenant_id)
            .where(col(InvitationRow.created_at) > since)
        )
        return count or 0

    @of_all_tenants
    async def by_token_of_all_tenants(self, token_hash: bytes) -> Invitation | None:
        """Return the invitation of a token, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(InvitationRow).where(col(InvitationRow.token_hash) == token_hash).with_for_update()
        )
        return _invitation(row) if row else None

    async def revoke(self, tenant_id: TenantId, invitation_id: str, at: datetime) -> None:
        """Take an invitation back; one that was accepted or revoked before stays as it is."""
        await self._session.execute(
            update(InvitationRow)
            .where(col(InvitationRow.tenant_id) == tenant_id)
            .where(col(InvitationRow.id) == invitation_id)
            .where(col(InvitationRow.accepted_at).is_(None))
            .where(col(InvitationRow.revoked_at).is_(None))
            .values(revoked_at=at)
        )

    async def revoke_pending(self, tenant_id: TenantId, email: str, at: datetime) -> None:
        """Take back what is still open for an address."""
        await self._session.execute(
            update(InvitationRow)
            .where(col(InvitationRow.tenant_id) == tenant_id)
            .where(col(InvitationRow.email) == email)
            .where(col(InvitationRow.accepted_at).is_(None))
            .where(col(InvitationRow.revoked_at).is_(None))
            .values(revoked_at=at)
        )

    async def mark_accepted(self, tenant_id: TenantId, invitation_id: str, at: datetime) -> None:
        """Note that the seat was taken."""
        await self._session.execute(
            update(InvitationRow)
            .where(col(InvitationRow.tenant_id) == tenant_id)
            .where(col(InvitationRow.id) == invitation_id)
            .values(accepted_at=at)
        )

    @of_all_tenants
    async def forget_before_of_all_tenants(self, instant: datetime) -> int:
        """Delete those that expired before an instant; return how many."""
        gone = await self._session.execute(
            delete(InvitationRow).where(col(InvitationRow.expires_at) < instant).returning(col(InvitationRow.id))
        )
        return len(gone.all())
