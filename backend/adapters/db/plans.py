"""Plan versions in SQL."""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.tables import PlanRow
from backend.domain.errors import AlreadyExists
from backend.domain.plans import Plan, QuotaMode


def plan_from_row(row: PlanRow) -> Plan:
    """Return the domain value of a row."""
    return Plan(
        id=row.id,
        name=row.name,
        version=row.version,
        rate_per_minute=row.rate_per_minute,
        monthly_quota=row.monthly_quota,
        quota_mode=QuotaMode(row.quota_mode),
        bills_cache_hits=row.bills_cache_hits,
        max_api_keys=row.max_api_keys,
    )


class SqlPlans:
    """What can be bought."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, plan: Plan) -> None:
        """Store a plan version; the same one again changes nothing.

        Raises:
            AlreadyExists: that version is stored with other terms.
        """
        stored = await self._session.get(PlanRow, plan.id)
        if stored is not None:
            if plan_from_row(stored) != plan:
                raise AlreadyExists("A plan version cannot be changed; add a new version.")
            return
        self._session.add(
            PlanRow(
                id=plan.id,
                name=plan.name,
                version=plan.version,
                rate_per_minute=plan.rate_per_minute,
                monthly_quota=plan.monthly_quota,
                quota_mode=plan.quota_mode,
                bills_cache_hits=plan.bills_cache_hits,
                max_api_keys=plan.max_api_keys,
            )
        )
        await self._session.flush()

    async def newest(self, name: str) -> Plan | None:
        """Return the newest version of a plan."""
        row = await self._session.scalar(
            select(PlanRow).where(col(PlanRow.name) == name).order_by(col(PlanRow.version).desc()).limit(1)
        )
        return plan_from_row(row) if row else None
