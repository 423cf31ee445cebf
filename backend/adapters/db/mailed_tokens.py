"""Mailed tokens in SQL."""

from datetime import datetime

from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.tables import MailedTokenRow
from backend.domain.ids import UserId
from backend.domain.mailed_tokens import MailedToken, MailPurpose


def _token(row: MailedTokenRow) -> MailedToken:
    return MailedToken(
        id=row.id,
        purpose=MailPurpose(row.purpose),
        email=row.email,
        token_hash=row.token_hash,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        user_id=UserId(row.user_id) if row.user_id else None,
        password_hash=row.password_hash,
        tenant_name=row.tenant_name,
    )


class SqlMailedTokens:
    """Tokens that went out by mail."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, token: MailedToken) -> None:
        """Store a new token."""
        self._session.add(
            MailedTokenRow(
                id=token.id,
                purpose=token.purpose,
                email=token.email,
                token_hash=token.token_hash,
                created_at=token.created_at,
                expires_at=token.expires_at,
                used_at=token.used_at,
                user_id=token.user_id,
                password_hash=token.password_hash,
                tenant_name=token.tenant_name,
            )
        )
        await self._session.flush()

    async def by_hash(self, token_hash: bytes) -> MailedToken | None:
        """Return the token of a hash, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(MailedTokenRow).where(col(MailedTokenRow.token_hash) == token_hash).with_for_update()
        )
        return _token(row) if row else None

    async def count_since(self, purpose: MailPurpose, email: str, since: datetime) -> int:
        """Count the tokens that were made for an address since an instant."""
        count = await self._session.scalar(
            select(func.count())
            .select_from(MailedTokenRow)
            .where(col(MailedTokenRow.email) == email)
            .where(col(MailedTokenRow.purpose) == purpose.value)
            .where(col(MailedTokenRow.created_at) > since)
        )
        return count or 0

    async def use_up(self, purpose: MailPurpose, email: str, at: datetime) -> None:
        """Let no token for that purpose and address count any more."""
        await self._session.execute(
            update(MailedTokenRow)
            .where(col(MailedTokenRow.email) == email)
            .where(col(MailedTokenRow.purpose) == purpose.value)
            .where(col(MailedTokenRow.used_at).is_(None))
            .values(used_at=at)
        )

    async def forget_before(self, instant: datetime) -> int:
        """Delete the tokens that expired before an instant; return how many."""
        gone = await self._session.execute(
            delete(MailedTokenRow).where(col(MailedTokenRow.expires_at) < instant).returning(col(MailedTokenRow.id))
        )
        return len(gone.all())
