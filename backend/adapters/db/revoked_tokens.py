"""Access tokens that were revoked before their time, in SQL."""

from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from backend.adapters.db.tables import RevokedTokenRow


def is_revoked(token_id: str) -> ColumnElement[bool]:
    """Return the condition that a token was revoked, for the query that looks its owner up: it costs no second one."""
    return exists().where(col(RevokedTokenRow.id) == token_id)


class SqlRevokedTokens:
    """Access tokens that were revoked."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, token_id: str, expires_at: datetime) -> bool:
        """Revoke a token; return whether it was not before."""
        is_sqlite = self._session.get_bind().dialect.name == "sqlite"
        insert = (sqlite_insert if is_sqlite else postgresql_insert)(RevokedTokenRow)
        added = await self._session.execute(
            insert.values(id=token_id, expires_at=expires_at)
            .on_conflict_do_nothing()
            .returning(col(RevokedTokenRow.id))
        )
        return len(added.all()) == 1

    async def forget_before(self, instant: datetime) -> int:
        """Forget the tokens that expired before an instant; return how many."""
        gone = await self._session.execute(
            delete(RevokedTokenRow).where(col(RevokedTokenRow.expires_at) < instant).returning(col(RevokedTokenRow.id))
        )
        return len(gone.all())
