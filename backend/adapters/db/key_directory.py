"""Finds an API key with all that applies to it, in one statement on a connection of its own."""

from backend.adapters.db.api_keys import key_from_row
from backend.adapters.db.key_reads import open_reads
from backend.adapters.db.unit_of_work import Database
from backend.adapters.memory.bounded_map import BoundedMap
from backend.domain.api_keys import KeyGrant
from backend.domain.clock import Clock
from backend.domain.limits import Enforcement
from backend.domain.lowered_limits import LoweredLimits
from backend.domain.plans import Plan
from backend.domain.tenants import TenantStatus

MOST_PLANS = 1_000
"""Plan versions that are remembered. They never change, and the grants of all their tenants share them."""


class SqlKeyDirectory:
    """Reads the store each time; a cache stands before it.

    Args:
        database: some of its pool's connections stay out until :meth:`aclose`.
        clock: decides which subscription holds.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._reads = open_reads(database.engine)
        self._plans: BoundedMap[str, Plan] = BoundedMap(MOST_PLANS)

    def holds(self, lookup_id: str) -> bool:  # noqa: ARG002
        """Nothing is at hand: each look goes to the store."""
        return False

    def cached(self, lookup_id: str) -> KeyGrant | None:  # noqa: ARG002
        """Nothing is."""
        return None

    async def find(self, lookup_id: str) -> KeyGrant | None:
        """Return the key of that id as the store holds it."""
        return await self.reload(lookup_id)

    async def recheck(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now."""
        return await self.reload(lookup_id)

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now."""
        async with self._database.guarded():
            found = await self._reads.one(lookup_id, self._clock.now())
        if found is None:
            return None
        return KeyGrant.assemble(
            key=key_from_row(found),
            tenant_status=TenantStatus(found.tenant_status),
            tenant_version=found.tenant_version,
            plan=self._plans.get(found.plan_id) or await self._read_plan(found.plan_id),
            plan_ends_at=found.plan_ends_at,
            enforcement=Enforcement(found.enforcement),
            lowered=LoweredLimits.from_dict(found.lowered_limits),
        )

    async def aclose(self) -> None:
        """Give the connections back that were kept."""
        await self._reads.aclose()

    async def _read_plan(self, plan_id: str) -> Plan:
        async with self._database.unit_of_work(read_only=True) as unit:
            plan = await unit.plans.get(plan_id)
        if plan is None:
            raise LookupError("a subscription is to a plan that is there")
        self._plans.put(plan_id, plan)
        return plan
