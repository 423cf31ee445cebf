"""Usage alerts in SQL: the unique constraint decides which of several replicas tells the tenant."""

from typing import Literal, cast

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.tables import UsageAlertRow
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId, new_id
from backend.domain.plans import QuotaMode
from backend.domain.usage_alerts import QuotaUse, UsageAlert


def _alert(row: UsageAlertRow) -> UsageAlert:
    use = QuotaUse(
        period=row.period,
        environment=Environment(row.environment),
        scope=cast("Literal['tenant', 'key']", row.scope),
        subject=row.subject,
        units=row.units,
        limit=row.quota,
        mode=QuotaMode(row.mode),
    )
    return UsageAlert(use=use, threshold=row.threshold, at=row.reached_at)


@tenant_rows
class SqlUsageAlerts:
    """Which thresholds of its quotas a tenant has reached."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, alert: UsageAlert) -> bool:
        """Store an alert; ``False``, and nothing changes, when this threshold was reached before."""
        insert = sqlite.insert if self._session.get_bind().dialect.name == "sqlite" else postgresql.insert
        use = alert.use
        stored = await self._session.execute(
            insert(UsageAlertRow)
            .values(
                id=new_id("alr"),
                tenant_id=tenant_id,
                period=use.period,
                environment=use.environment.value,
                scope=use.scope,
                subject=use.subject,
                threshold=alert.threshold,
                units=use.units,
                quota=use.limit,
                mode=use.mode.value,
                reached_at=alert.at,
            )
            .on_conflict_do_nothing()
            .returning(col(UsageAlertRow.id))
        )
        return stored.first() is not None

    async def list(self, tenant_id: TenantId, period: str) -> list[UsageAlert]:
        """Return the alerts of a period."""
        rows = await self._session.scalars(
            select(UsageAlertRow)
            .where(col(UsageAlertRow.tenant_id) == tenant_id)
            .where(col(UsageAlertRow.period) == period)
            .order_by(col(UsageAlertRow.id))
        )
        return [_alert(row) for row in rows]
