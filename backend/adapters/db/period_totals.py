"""What tenants' periods come to, as an outside biller is told: the billable units that the statement has."""

from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import UsageSums
from backend.domain.ids import TenantId
from backend.domain.usage_pushes import PeriodTotal


class SqlPeriodTotals:
    """Sums of the ledger and of the adjustments booked, exact at once; of a closed period, what it was closed with."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sums = UsageSums(database)

    async def of_period(self, tenant_id: TenantId, period: str) -> PeriodTotal:
        """Return a period's billable units, corrections included, and whether they are final.

        A correction counts in the period that it is booked in, as in the statement: a closed period's total, which may
        be on an invoice already, stays as it is.
        """
        async with self._database.unit_of_work(read_only=True) as unit:
            closed = await unit.periods.closed(tenant_id, period)
            if closed is not None:
                return PeriodTotal(billable_units=closed.totals.billable_units, is_closed=True)
            _, _, corrected = await unit.adjustments.totals(tenant_id, period)
        usage = await self._sums.by_plan(tenant_id, period)
        return PeriodTotal(billable_units=corrected + sum(each.billable_units for each in usage), is_closed=False)
