"""What the audit log says of a tenant, read through the store."""

from backend.domain.audit import AuditFilter, AuditRecord
from backend.domain.ids import TenantId
from tests.api.conftest import World


async def trail(world: World, chain: TenantId) -> list[AuditRecord]:
    """Return a chain's records, oldest first."""
    async with world.resources.store.unit_of_work(read_only=True) as unit:
        found = await unit.audit.list(chain, AuditFilter(), before_sequence=None, limit=10_000)
    return found[::-1]


async def actions(world: World, chain: TenantId) -> list[str]:
    """Return what was done, oldest first."""
    return [record.entry.action.value for record in await trail(world, chain)]
