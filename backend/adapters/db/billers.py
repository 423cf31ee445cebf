"""What outside billers know of tenants, in SQL."""

from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import BillerCustomerRow, UsagePushRow
from backend.domain.ids import TenantId
from backend.domain.usage_pushes import BillerCustomer, Reading, UsagePush

# One question at a time about one tenant, biller and period; there may be no row yet that could be locked.
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended(:what, 0))")


def _push(row: UsagePushRow) -> UsagePush:
    reading = Reading(
        tenant_id=TenantId(row.tenant_id),
        customer_id=row.customer_id,
        period=row.period,
        number=row.number,
        total=row.total,
        at=row.read_at,
        is_final=row.is_final,
    )
    return UsagePush(
        reading=reading,
        taken_at=row.taken_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        last_failure=row.last_failure,
    )


@tenant_rows
class SqlBillerCustomers:
    """Under which ids an outside biller knows tenants."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def get(self, tenant_id: TenantId) -> BillerCustomer | None:
        """Return a tenant's id there."""
        customer_id = await self._session.scalar(
            select(BillerCustomerRow.customer_id).where(col(BillerCustomerRow.tenant_id) == tenant_id)
        )
        return BillerCustomer(tenant_id=tenant_id, customer_id=customer_id) if customer_id else None

    async def set(self, tenant_id: TenantId, customer_id: str | None) -> None:
        """Set a tenant's id there; ``None`` takes it away, and nothing more is pushed."""
        await self._session.execute(delete(BillerCustomerRow).where(col(BillerCustomerRow.tenant_id) == tenant_id))
        if customer_id is not None:
            self._session.add(BillerCustomerRow(tenant_id=tenant_id, customer_id=customer_id))
            await self._session.flush()

    @of_all_tenants
    async def list_all(self) -> list[BillerCustomer]:
        """Return every tenant that has one, by tenant."""
        rows = await self._session.scalars(select(BillerCustomerRow).order_by(col(BillerCustomerRow.tenant_id)))
        return [BillerCustomer(tenant_id=TenantId(row.tenant_id), customer_id=row.customer_id) for row in rows]


@tenant_rows
class SqlUsagePushes:
    """How far billers were told."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def hold(self, tenant_id: TenantId, biller: str, period: str) -> UsagePush | None:
        """Return how far a biller was told of a period; holds off everybody else who asks, until the unit ends."""
        if self._session.get_bind().dialect.name == "postgresql":
            await self._session.execute(_ALONE, {"what": f"usage-push:{tenant_id}:{biller}:{period}"})
        row = await self._session.scalar(
            select(UsagePushRow)
            .where(*_of(tenant_id, biller), col(UsagePushRow.period) == period)
            .execution_options(populate_existing=True)
        )
        return _push(row) if row else None

    async def store(self, tenant_id: TenantId, biller: str, push: UsagePush) -> None:
        """Store it in place of what is there."""
        reading = push.reading
        await self._session.merge(
            UsagePushRow(
                tenant_id=tenant_id,
                biller=biller,
                period=reading.period,
                customer_id=reading.customer_id,
                number=reading.number,
                total=reading.total,
                read_at=reading.at,
                is_final=reading.is_final,
                taken_at=push.taken_at,
                attempts=push.attempts,
                next_attempt_at=push.next_attempt_at,
                last_failure=push.last_failure,
            )
        )
        await self._session.flush()

    async def unfinished(self, tenant_id: TenantId, biller: str) -> frozenset[str]:
        """Return the periods whose last reading is not final, or was not taken."""
        open_still = or_(col(UsagePushRow.is_final).is_(False), col(UsagePushRow.taken_at).is_(None))
        periods = await self._session.scalars(
            select(col(UsagePushRow.period)).where(and_(*_of(tenant_id, biller), open_still))
        )
        return frozenset(periods)


def _of(tenant_id: TenantId, biller: str) -> tuple[ColumnElement[Any], ...]:
    return (col(UsagePushRow.tenant_id) == tenant_id, col(UsagePushRow.biller) == biller)
