"""The audit log, read and verified by those it is about."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from backend.domain.audit import AuditFilter, AuditRecord, ChainReport
from backend.domain.callers import Caller
from backend.services.ports import CursorCodec, Store, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPage:
    """Records, newest first."""

    records: tuple[AuditRecord, ...]
    next_cursor: str | None


class AuditService:
    """What a tenant may ask of its audit log."""

    def __init__(self, *, unit: UnitOfWork, cursors: CursorCodec) -> None:
        self._unit = unit
        self._cursors = cursors

    async def list(self, caller: Caller, wanted: AuditFilter, *, cursor: str | None, limit: int) -> AuditPage:
        """Return a page of the tenant's records."""
        purpose = f"audit:{caller.tenant_id}:{wanted}"
        before = int(self._cursors.decode(purpose, cursor)) if cursor else None
        found = await self._unit.audit.list(caller.tenant_id, wanted, before_sequence=before, limit=limit + 1)
        next_cursor = None
        if len(found) > limit:
            next_cursor = self._cursors.encode(purpose, str(found[limit - 1].sequence))
        return AuditPage(records=tuple(found[:limit]), next_cursor=next_cursor)

    async def verify(self, caller: Caller) -> ChainReport:
        """Walk the tenant's chain."""
        return await self._unit.audit.verify(caller.tenant_id)


async def export_chain(store: Store, caller: Caller) -> AsyncIterator[AuditRecord]:
    """Yield the tenant's chain, oldest first, in a unit of its own: the request's is over before the body goes out."""
    async with store.unit_of_work(read_only=True) as unit:
        async for record in unit.audit.walk(caller.tenant_id):
            yield record
