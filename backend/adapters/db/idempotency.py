"""Answers under their Idempotency-Key in SQL, in the transaction of what they tell of.

There is no state between claimed and answered: the claim is a lock that ends with the transaction, so a process that
dies in the middle leaves neither the mutation nor the claim behind.
"""

from datetime import datetime
from hashlib import blake2b

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import IdempotencyRow
from backend.domain.errors import IdempotencyInProgress
from backend.domain.ids import TenantId
from backend.services.ports.store import StoredRepetition


@tenant_rows
class SqlIdempotencyRecords:
    """Answers by credential and Idempotency-Key."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def hold(self, tenant_id: TenantId, credential_id: str, key: str) -> StoredRepetition | None:
        """Return what is stored, and keep every other unit from holding the same key until this one ends."""
        # On SQLite a writing unit holds the one write lock anyhow.
        if self._session.get_bind().dialect.name == "postgresql":
            lock = text("SELECT pg_try_advisory_xact_lock(:name)")
            if not await self._session.scalar(lock, {"name": _lock_name(tenant_id, credential_id, key)}):
                raise IdempotencyInProgress(retry_after_s=1)
        row = await self._session.get(IdempotencyRow, (tenant_id, credential_id, key))
        return _record(row) if row else None

    async def keep(self, tenant_id: TenantId, record: StoredRepetition) -> None:
        """Store an answer in place of one that has expired, if any."""
        await self._session.merge(
            IdempotencyRow(
                tenant_id=tenant_id,
                credential_id=record.credential_id,
                key=record.key,
                fingerprint=record.fingerprint,
                status=record.status,
                headers=[list(pair) for pair in record.headers],
                sealed_body=record.sealed_body,
                created_at=record.created_at,
                expires_at=record.expires_at,
            )
        )
        await self._session.flush()

    @of_all_tenants
    async def forget_expired_of_all_tenants(self, now: datetime) -> int:
        """Delete what nobody can ask for any more; return how many."""
        gone = await self._session.execute(
            delete(IdempotencyRow).where(col(IdempotencyRow.expires_at) <= now).returning(col(IdempotencyRow.key))
        )
        return len(gone.all())


def _lock_name(*parts: str) -> int:
    """Return a 64-bit name for an advisory lock."""
    joined = "\0".join(("idempotency", *parts)).encode()
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "big", signed=True)


def _record(row: IdempotencyRow) -> StoredRepetition:
    return StoredRepetition(
        credential_id=row.credential_id,
        key=row.key,
        fingerprint=row.fingerprint,
        status=row.status,
        headers=tuple([(name, value) for name, value in row.headers]),
        sealed_body=row.sealed_body,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
