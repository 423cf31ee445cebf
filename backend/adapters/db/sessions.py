"""Logins and their refresh tokens in SQL."""

from datetime import datetime

from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.revoked_tokens import is_revoked
from backend.adapters.db.sqlite_connection import UNANSWERED
from backend.adapters.db.tables import RefreshTokenRow, SessionRow, table_of
from backend.domain.ids import TenantId, UserId
from backend.domain.sessions import RefreshToken, Session


def _session(row: SessionRow) -> Session:
    return Session(
        id=row.id,
        user_id=UserId(row.user_id),
        tenant_id=TenantId(row.tenant_id) if row.tenant_id else None,
        scope=row.scope,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        address=row.address,
        user_agent=row.user_agent,
    )


def _token(row: RefreshTokenRow) -> RefreshToken:
    return RefreshToken(
        id=row.id,
        session_id=row.session_id,
        token_hash=row.token_hash,
        created_at=row.created_at,
        rotated_at=row.rotated_at,
        successor_id=row.successor_id,
    )


# Of the tables: entities would cost more than the statements, and every login executes both.
_NEW_SESSION = insert(table_of(SessionRow)).execution_options(**{UNANSWERED: True})
_NEW_TOKEN = insert(table_of(RefreshTokenRow)).execution_options(**{UNANSWERED: True})


class SqlSessions:
    """Refresh-token families."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def start(self, session: Session, token: RefreshToken) -> None:
        """Store a new family and its first member."""
        values = {
            "id": session.id,
            "user_id": session.user_id,
            "tenant_id": session.tenant_id,
            "scope": session.scope,
            "created_at": session.created_at,
            "last_used_at": session.last_used_at,
            "revoked_at": session.revoked_at,
            "address": session.address,
            "user_agent": session.user_agent,
        }
        await self._session.execute(_NEW_SESSION, values)
        await self.add_token(token)

    async def get(self, session_id: str) -> Session | None:
        """Return one family."""
        row = await self._session.get(SessionRow, session_id)
        return _session(row) if row else None

    async def of_token(self, session_id: str, token_id: str) -> Session | None:
        """Return the family of an access token, unless that token was revoked."""
        row = await self._session.scalar(
            select(SessionRow).where(col(SessionRow.id) == session_id).where(~is_revoked(token_id))
        )
        return _session(row) if row else None

    async def add_token(self, token: RefreshToken) -> None:
        """Store a new member of a family."""
        values = {
            "id": token.id,
            "session_id": token.session_id,
            "token_hash": token.token_hash,
            "created_at": token.created_at,
            "rotated_at": token.rotated_at,
            "successor_id": token.successor_id,
        }
        await self._session.execute(_NEW_TOKEN, values)

    async def token_by_hash(self, token_hash: bytes) -> RefreshToken | None:
        """Return the token of a hash, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(RefreshTokenRow).where(col(RefreshTokenRow.token_hash) == token_hash).with_for_update()
        )
        return _token(row) if row else None

    async def token(self, token_id: str) -> RefreshToken | None:
        """Return one token."""
        row = await self._session.get(RefreshTokenRow, token_id)
        return _token(row) if row else None

    async def mark_rotated(self, token_id: str, successor_id: str, at: datetime) -> None:
        """Note that a token was exchanged for its successor."""
        await self._session.execute(
            update(RefreshTokenRow)
            .where(col(RefreshTokenRow.id) == token_id)
            .values(rotated_at=at, successor_id=successor_id)
        )

    async def touch(self, session_id: str, at: datetime) -> None:
        """Note that a family was used."""
        await self._session.execute(update(SessionRow).where(col(SessionRow.id) == session_id).values(last_used_at=at))

    async def revoke(self, session_id: str, at: datetime) -> None:
        """End a family; an ended one keeps its first instant."""
        await self._session.execute(
            update(SessionRow)
            .where(col(SessionRow.id) == session_id)
            .where(col(SessionRow.revoked_at).is_(None))
            .values(revoked_at=at)
        )

    async def of_user(self, user_id: UserId) -> list[Session]:
        """Return a user's families that were not ended, the last used first."""
        rows = await self._session.scalars(
            select(SessionRow)
            .where(col(SessionRow.user_id) == user_id)
            .where(col(SessionRow.revoked_at).is_(None))
            .order_by(col(SessionRow.last_used_at).desc(), col(SessionRow.id).desc())
        )
        return [_session(row) for row in rows]

    async def revoke_all(self, user_id: UserId, at: datetime, *, besides: str | None = None) -> int:
        """End all of a user's families, but for one; return how many."""
        ended = await self._session.execute(
            update(SessionRow)
            .where(col(SessionRow.user_id) == user_id)
            .where(col(SessionRow.id) != (besides or ""))
            .where(col(SessionRow.revoked_at).is_(None))
            .values(revoked_at=at)
            .returning(col(SessionRow.id))
        )
        return len(ended.all())

    async def forget_before(self, instant: datetime) -> int:
        """Delete the families last used before an instant, with their tokens; return how many."""
        old = select(SessionRow.id).where(col(SessionRow.last_used_at) < instant)
        await self._session.execute(delete(RefreshTokenRow).where(col(RefreshTokenRow.session_id).in_(old)))
        gone = await self._session.execute(
            delete(SessionRow).where(col(SessionRow.last_used_at) < instant).returning(col(SessionRow.id))
        )
        return len(gone.all())
