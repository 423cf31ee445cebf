"""Plan versions in SQL."""

from dataclasses import asdict
from typing import Any

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.tables import PlanRow
from backend.domain.errors import AlreadyExists
from backend.domain.plans import Plan, QuotaMode
from backend.domain.pricing import FREE, Package, Pricing, PricingModel, Rate, Tier


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
        pricing=_pricing(row.pricing),
        model_rates=tuple(sorted((row.model_rates or {}).items())),
    )


def _columns(plan: Plan) -> dict[str, Any]:
    return asdict(plan) | {"model_rates": dict(plan.model_rates) or None}


def _pricing(stored: dict[str, Any] | None) -> Pricing:
    if stored is None:
        return FREE
    return Pricing(
        currency=stored["currency"],
        flat_fee_micros=stored["flat_fee_micros"],
        included_units=stored["included_units"],
        model=PricingModel(stored["model"]),
        rate=_rate(stored["rate"]),
        tiers=tuple(
            Tier(up_to=tier["up_to"], rate=Rate(**tier["rate"]), flat_micros=tier["flat_micros"])
            for tier in stored["tiers"]
        ),
        package=Package(**stored["package"]) if stored["package"] else None,
        overage=_rate(stored["overage"]),
    )


def _rate(stored: dict[str, int] | None) -> Rate | None:
    return Rate(**stored) if stored else None


class SqlPlans:
    """What can be bought."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, plan: Plan) -> None:
        """Store a plan version; the same one again changes nothing, whoever stores it at the same time.

        Raises:
            AlreadyExists: another one has this id, or this name and version.
        """
        is_sqlite = self._session.get_bind().dialect.name == "sqlite"
        insert = (sqlite_insert if is_sqlite else postgresql_insert)(PlanRow)
        await self._session.execute(insert.on_conflict_do_nothing(), _columns(plan))
        stored = await self._session.get(PlanRow, plan.id, populate_existing=True)
        if stored is None or plan_from_row(stored) != plan:
            raise AlreadyExists("A plan version cannot be changed, and this one is taken. Add a new version.")

    async def get(self, plan_id: str) -> Plan | None:
        """Return one plan version."""
        row = await self._session.get(PlanRow, plan_id)
        return plan_from_row(row) if row else None

    async def newest(self, name: str) -> Plan | None:
        """Return the newest version of a plan."""
        row = await self._session.scalar(
            select(PlanRow).where(col(PlanRow.name) == name).order_by(col(PlanRow.version).desc()).limit(1)
        )
        return plan_from_row(row) if row else None

    async def version(self, name: str, version: int) -> Plan | None:
        """Return one version of a plan."""
        row = await self._session.scalar(
            select(PlanRow).where(col(PlanRow.name) == name).where(col(PlanRow.version) == version)
        )
        return plan_from_row(row) if row else None

    async def list(self, name: str | None, *, after: str | None, limit: int) -> list[Plan]:
        """Return up to ``limit`` plan versions with an id below ``after``, newest first."""
        query = select(PlanRow).order_by(col(PlanRow.id).desc()).limit(limit)
        if name is not None:
            query = query.where(col(PlanRow.name) == name)
        if after is not None:
            query = query.where(col(PlanRow.id) < after)
        return [plan_from_row(row) for row in await self._session.scalars(query)]
