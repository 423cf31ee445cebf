"""Token signing keys in SQL; the private parts are sealed before they come here."""

from datetime import datetime

from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.tables import SigningKeyRow
from backend.services.ports.store import StoredSigningKey


class SqlSigningKeys:
    """The keys that sign access tokens."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, key: StoredSigningKey) -> None:
        """Store a key."""
        self._session.add(
            SigningKeyRow(
                kid=key.kid,
                public_pem=key.public_pem,
                sealed_private=key.sealed_private,
                created_at=key.created_at,
                retired_at=key.retired_at,
            )
        )
        await self._session.flush()

    async def hold(self) -> None:
        """Keep every other unit from adding keys until this one ends."""
        # On SQLite a writing unit holds the one write lock anyhow.
        if self._session.get_bind().dialect.name == "postgresql":
            await self._session.execute(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))

    async def retire(self, kid: str, at: datetime) -> None:
        """Let a key sign no more; one retired before keeps its first instant."""
        await self._session.execute(
            update(SigningKeyRow)
            .where(col(SigningKeyRow.kid) == kid)
            .where(col(SigningKeyRow.retired_at).is_(None))
            .values(retired_at=at)
        )

    async def forget_retired_before(self, instant: datetime) -> int:
        """Delete the keys that were retired before an instant; return how many."""
        gone = await self._session.execute(
            delete(SigningKeyRow).where(col(SigningKeyRow.retired_at) < instant).returning(col(SigningKeyRow.kid))
        )
        return len(gone.all())

    async def list_all(self) -> list[StoredSigningKey]:
        """Return every key, newest first."""
        rows = await self._session.scalars(
            select(SigningKeyRow).order_by(col(SigningKeyRow.created_at).desc(), col(SigningKeyRow.kid))
        )
        return [
            StoredSigningKey(
                kid=row.kid,
                public_pem=row.public_pem,
                sealed_private=row.sealed_private,
                created_at=row.created_at,
                retired_at=row.retired_at,
            )
            for row in rows
        ]
