"""Tenants in SQL."""

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.engine import violated_constraint
from backend.adapters.db.tables import TenantRow
from backend.domain.errors import AlreadyExists, NotFound
from backend.domain.ids import TenantId
from backend.domain.lowered_limits import LoweredLimits
from backend.domain.tenants import Tenant, TenantStatus
from backend.services.ports.store import TenantFilter


def tenant_from_row(row: TenantRow) -> Tenant:
    """Return the domain value of a row."""
    return Tenant(
        id=TenantId(row.id),
        slug=row.slug,
        name=row.name,
        status=TenantStatus(row.status),
        version=row.version,
        created_at=row.created_at,
        limits=LoweredLimits.from_dict(row.lowered_limits),
    )


class SqlTenants:
    """Customers."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant: Tenant) -> None:
        """Store a new tenant."""
        self._session.add(
            TenantRow(
                id=tenant.id,
                slug=tenant.slug,
                name=tenant.name,
                status=tenant.status,
                version=tenant.version,
                created_at=tenant.created_at,
            )
        )
        try:
            await self._session.flush()
        except IntegrityError as error:
            if violated_constraint(error) in {"uq_tenants_slug", "tenants.slug"}:
                raise AlreadyExists("A tenant with this slug exists.") from error
            raise

    async def get(self, tenant_id: TenantId) -> Tenant | None:
        """Return one tenant."""
        row = await self._session.get(TenantRow, tenant_id)
        return tenant_from_row(row) if row else None

    async def by_slug(self, slug: str) -> Tenant | None:
        """Return the tenant of a slug."""
        row = await self._session.scalar(select(TenantRow).where(col(TenantRow.slug) == slug))
        return tenant_from_row(row) if row else None

    async def list_all(self) -> list[Tenant]:
        """Return every tenant, by slug."""
        rows = await self._session.scalars(select(TenantRow).order_by(col(TenantRow.slug)))
        return [tenant_from_row(row) for row in rows]

    async def page_of_all_tenants(self, wanted: TenantFilter, *, after: str | None, limit: int) -> list[Tenant]:
        """Return up to ``limit`` tenants with an id below ``after``, newest first."""
        query = select(TenantRow).order_by(col(TenantRow.id).desc()).limit(limit)
        if wanted.status is not None:
            query = query.where(col(TenantRow.status) == wanted.status)
        if wanted.slug is not None:
            query = query.where(col(TenantRow.slug) == wanted.slug)
        if after is not None:
            query = query.where(col(TenantRow.id) < after)
        return [tenant_from_row(row) for row in await self._session.scalars(query)]

    async def rename(self, tenant_id: TenantId, name: str) -> Tenant:
        """Give the tenant another display name; return it."""
        await self._session.execute(update(TenantRow).where(col(TenantRow.id) == tenant_id).values(name=name))
        return await self._reread(tenant_id)

    async def hold(self, tenant_id: TenantId) -> None:
        """Hold off every other unit that holds the same tenant, until this one ends."""
        # On SQLite a writing unit holds the one write lock anyhow, and ignores FOR UPDATE.
        await self._session.execute(
            select(TenantRow)
            .where(col(TenantRow.id) == tenant_id)
            .with_for_update()
            # What was read before the lock may have changed since.
            .execution_options(populate_existing=True)
        )

    async def set_status(self, tenant_id: TenantId, status: TenantStatus) -> Tenant:
        """Suspend or resume; return the tenant with its new version."""
        await self._session.execute(
            update(TenantRow).where(col(TenantRow.id) == tenant_id).values(status=status, version=TenantRow.version + 1)
        )
        return await self._reread(tenant_id)

    async def lower_limits(self, tenant_id: TenantId, limits: LoweredLimits) -> Tenant:
        """Replace the limits that the tenant puts on itself; return it with its new version."""
        # Cached key grants hold the limits: they must be read again.
        await self._session.execute(
            update(TenantRow)
            .where(col(TenantRow.id) == tenant_id)
            .values(lowered_limits=limits.to_dict(), version=TenantRow.version + 1)
        )
        return await self._reread(tenant_id)

    async def _reread(self, tenant_id: TenantId) -> Tenant:
        row = await self._session.get(TenantRow, tenant_id, populate_existing=True)
        if row is None:
            raise NotFound
        return tenant_from_row(row)
