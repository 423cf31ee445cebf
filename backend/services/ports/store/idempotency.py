"""What creating requests were answered, kept for a repetition."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.ids import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRepetition:
    """An answer at rest under its Idempotency-Key; the body is sealed."""

    credential_id: str
    key: str
    fingerprint: bytes
    status: int
    headers: tuple[tuple[str, str], ...]
    sealed_body: bytes
    created_at: datetime
    expires_at: datetime


class IdempotencyRecords(Protocol):
    """Answers by credential and Idempotency-Key."""

    async def hold(self, tenant_id: TenantId, credential_id: str, key: str) -> StoredRepetition | None:
        """Return what is stored, and keep every other unit from holding the same key until this one ends.

        Raises:
            IdempotencyInProgress: another unit holds it. A store that has one writer at a time waits instead.
        """
        ...

    async def keep(self, tenant_id: TenantId, record: StoredRepetition) -> None:
        """Store an answer in place of one that has expired, if any."""
        ...

    async def forget_expired_of_all_tenants(self, now: datetime) -> int:
        """Delete what nobody can ask for any more; return how many."""
        ...
