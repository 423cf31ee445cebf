"""What tenants' periods come to, as an outside biller is told."""

from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import UsageSums
from backend.domain.ids import TenantId
from backend.domain.usage_pushes import PeriodTotal


class SqlPeriodTotals:
    """Sums of the ledger, exact at once."""

    def __init__(self, database: Database) -> None:
        self._sums = UsageSums(database)

    async def of_period(self, tenant_id: TenantId, period: str) -> PeriodTotal:
        """Return a period's billable units, and whether they are final."""
        usage = await self._sums.by_plan(tenant_id, period)
        return PeriodTotal(billable_units=sum(each.billable_units for each in usage), is_closed=False)
