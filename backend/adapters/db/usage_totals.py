"""What the worker's jobs read of the ledger: who used something lately, and how much each tenant used in a period."""

from sqlalchemy import select
from sqlmodel import SQLModel, col

from backend.adapters.db.commit_order import CommitOrder
from backend.adapters.db.row_security import show_all_tenants
from backend.adapters.db.tables import TenantRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import UsageSums
from backend.domain.ids import TenantId
from backend.domain.usage import LedgerPosition, UsageTotal

_LEDGER = SQLModel.metadata.tables["usage_events"]


class SqlUsageTotals:
    """Sums of the ledger, exact at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_sqlite = database.engine.dialect.name == "sqlite"
        self._order = CommitOrder("usage_events", is_sqlite=self._is_sqlite)
        self._sums = UsageSums(database)

    async def of_period(self, tenant_id: TenantId, period: str) -> tuple[UsageTotal, ...]:
        """Return a period's sums by environment and credential."""
        return await self._sums.by_credential(tenant_id, period)

    async def active_of_all_tenants(self, after: LedgerPosition) -> tuple[frozenset[TenantId], LedgerPosition]:
        """Return who has events past a position and below the watermark, and where to go on."""
        async with self._database.connection() as connection:
            await show_all_tenants(connection)
            watermark = await self._order.watermark(connection)
            recent = (self._order.after(after), self._order.before(watermark))
            if self._is_sqlite:
                statement = select(_LEDGER.columns.tenant_id).where(*recent).distinct()
            else:
                # One look into each tenant's own index, however long the ledger is.
                own = select(self._order.row).where(_LEDGER.columns.tenant_id == TenantRow.id, *recent)
                statement = select(col(TenantRow.id)).where(own.exists())
            found = (await connection.scalars(statement)).all()
        # What lies at the watermark itself was not looked at: rows count from 1, so one step back is nobody's.
        return frozenset(TenantId(each) for each in found), LedgerPosition(watermark.transaction, watermark.row - 1)
