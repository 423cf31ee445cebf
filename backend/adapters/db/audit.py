"""The audit log in SQL: written in the mutation's own transaction, one chain a tenant."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from sqlalchemy import bindparam, insert, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.sqlite_connection import UNANSWERED
from backend.adapters.db.tables import AuditRow, table_of
from backend.domain.audit import (
    GENESIS,
    Action,
    Actor,
    AuditEntry,
    AuditFilter,
    AuditRecord,
    ChainReport,
    chain_hash,
    is_intact,
)
from backend.domain.ids import TenantId, new_id

_PAGE = 500
# Of the table: entities would cost more than the statements, and every mutation executes both.
_TABLE = table_of(AuditRow)
_LAST = (
    select(_TABLE.c.hash, _TABLE.c.sequence)
    .where(_TABLE.c.tenant_id == bindparam("chain"))
    .order_by(_TABLE.c.sequence.desc())
    .limit(1)
)
_NEXT = insert(_TABLE).execution_options(**{UNANSWERED: True})


def _record(row: AuditRow) -> AuditRecord:
    return AuditRecord(
        id=row.id,
        tenant_id=TenantId(row.tenant_id),
        sequence=row.sequence,
        at=row.at,
        entry=AuditEntry(
            actor=Actor(kind=row.actor_kind, id=row.actor_id, address=row.actor_address, request_id=row.request_id),
            action=Action(row.action),
            target_id=row.target_id,
            before=row.before,
            after=row.after,
        ),
        previous_hash=row.previous_hash,
        hash=row.hash,
    )


@tenant_rows
class SqlAuditLog:
    """What happened, in order."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def record(self, tenant_id: TenantId, entry: AuditEntry) -> None:
        """Append to the tenant's chain; it stands or falls with the unit of work."""
        await self._hold(tenant_id)
        last = (await self._session.execute(_LAST, {"chain": tenant_id})).one_or_none()
        previous_hash, sequence = (last.hash, last.sequence + 1) if last else (GENESIS, 1)
        record_id, at = new_id("aud"), datetime.now(UTC)
        link = chain_hash(
            tenant_id=tenant_id,
            record_id=record_id,
            sequence=sequence,
            at=at,
            entry=entry,
            previous_hash=previous_hash,
        )
        values = {
            "id": record_id,
            "tenant_id": tenant_id,
            "sequence": sequence,
            "at": at,
            "actor_kind": entry.actor.kind,
            "actor_id": entry.actor.id,
            "actor_address": entry.actor.address,
            "request_id": entry.actor.request_id,
            "action": entry.action.value,
            "target_id": entry.target_id,
            "before": dict(entry.before),
            "after": dict(entry.after),
            "previous_hash": previous_hash,
            "hash": link,
        }
        await self._session.execute(_NEXT, values)

    async def list(
        self, tenant_id: TenantId, wanted: AuditFilter, *, before_sequence: int | None, limit: int
    ) -> list[AuditRecord]:
        """Return up to ``limit`` records, newest first."""
        query = select(AuditRow).where(col(AuditRow.tenant_id) == tenant_id)
        for column, value in (
            (col(AuditRow.action), wanted.action),
            (col(AuditRow.actor_id), wanted.actor_id),
            (col(AuditRow.target_id), wanted.target_id),
        ):
            if value is not None:
                query = query.where(column == value)
        if wanted.start is not None:
            query = query.where(col(AuditRow.at) >= wanted.start)
        if wanted.end is not None:
            query = query.where(col(AuditRow.at) < wanted.end)
        if before_sequence is not None:
            query = query.where(col(AuditRow.sequence) < before_sequence)
        rows = await self._session.scalars(query.order_by(col(AuditRow.sequence).desc()).limit(limit))
        return [_record(row) for row in rows]

    async def verify(self, tenant_id: TenantId) -> ChainReport:
        """Walk the whole chain from its beginning, in pages."""
        previous_hash, sequence = GENESIS, 0
        async for record in self.walk(tenant_id):
            if not is_intact(record, previous_hash, sequence + 1):
                return ChainReport(records=sequence, head=previous_hash, broken_at=sequence + 1)
            previous_hash, sequence = record.hash, record.sequence
        return ChainReport(records=sequence, head=previous_hash, broken_at=None)

    async def walk(self, tenant_id: TenantId) -> AsyncIterator[AuditRecord]:
        """Yield the whole chain in order, a page in memory at a time."""
        sequence = 0
        while True:
            rows = (
                await self._session.scalars(
                    select(AuditRow)
                    .where(col(AuditRow.tenant_id) == tenant_id)
                    .where(col(AuditRow.sequence) > sequence)
                    .order_by(col(AuditRow.sequence))
                    .limit(_PAGE)
                    .execution_options(populate_existing=True)
                )
            ).all()
            for row in rows:
                yield _record(row)
            if len(rows) < _PAGE:
                return
            sequence = rows[-1].sequence

    async def _hold(self, tenant_id: TenantId) -> None:
        # Two units must not append the same link. On SQLite a writing unit holds the one write lock anyhow.
        if self._session.get_bind().dialect.name == "postgresql":
            await self._session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:chain, 7))"), {"chain": tenant_id}
            )
