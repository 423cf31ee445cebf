"""Finds an API key with all that applies to it, in one query and a session of its own."""

from sqlmodel import col, select

from backend.adapters.db.api_keys import key_from_row
from backend.adapters.db.plans import plan_from_row
from backend.adapters.db.row_security import see_all_tenants
from backend.adapters.db.subscriptions import holds_at
from backend.adapters.db.tables import ApiKeyRow, PlanRow, SubscriptionRow, TenantRow
from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import KeyGrant
from backend.domain.clock import Clock
from backend.domain.limits import Enforcement
from backend.domain.lowered_limits import LoweredLimits
from backend.domain.tenants import TenantStatus


class SqlKeyDirectory:
    """Reads the store each time; a cache stands before it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

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
        query = (
            select(ApiKeyRow, TenantRow, PlanRow, SubscriptionRow)
            .join(TenantRow, col(TenantRow.id) == col(ApiKeyRow.tenant_id))
            .join(SubscriptionRow, col(SubscriptionRow.tenant_id) == col(TenantRow.id))
            .join(PlanRow, col(PlanRow.id) == col(SubscriptionRow.plan_id))
            .where(col(ApiKeyRow.lookup_id) == lookup_id)
            .where(*holds_at(self._clock.now()))
        )
        async with self._database.session() as session:
            # Only the key says which tenant it is of.
            await see_all_tenants(session)
            found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        key, tenant, plan, subscription = found
        return KeyGrant.assemble(
            key=key_from_row(key),
            tenant_status=TenantStatus(tenant.status),
            tenant_version=tenant.version,
            plan=plan_from_row(plan),
            plan_ends_at=subscription.ended_at,
            enforcement=Enforcement(subscription.enforcement),
            lowered=LoweredLimits.from_dict(tenant.lowered_limits),
        )
