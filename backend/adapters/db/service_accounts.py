"""Service accounts in SQL."""

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.revoked_tokens import is_revoked
from backend.adapters.db.row_security import of_all_tenants, tenant_rows
from backend.adapters.db.tables import ServiceAccountRow
from backend.domain.ids import TenantId
from backend.domain.scopes import PlatformRole, Scope, format_scopes
from backend.domain.service_accounts import ServiceAccount


def _account(row: ServiceAccountRow) -> ServiceAccount:
    return ServiceAccount(
        id=row.id,
        tenant_id=TenantId(row.tenant_id) if row.tenant_id else None,
        name=row.name,
        scopes=frozenset(Scope(word) for word in row.scopes.split()),
        platform_role=PlatformRole(row.platform_role) if row.platform_role else None,
        secret_hash=row.secret_hash,
        pepper_version=row.pepper_version,
        generation=row.generation,
        created_by=row.created_by,
        created_at=row.created_at,
        rotated_at=row.rotated_at,
        deleted_at=row.deleted_at,
    )


@tenant_rows
class SqlServiceAccounts:
    """Programs' accounts."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    @of_all_tenants
    async def add(self, account: ServiceAccount) -> None:
        """Store a new account, of its tenant or of the platform."""
        self._session.add(
            ServiceAccountRow(
                id=account.id,
                tenant_id=account.tenant_id,
                name=account.name,
                scopes=format_scopes(account.scopes),
                platform_role=account.platform_role,
                secret_hash=account.secret_hash,
                pepper_version=account.pepper_version,
                generation=account.generation,
                created_by=account.created_by,
                created_at=account.created_at,
                rotated_at=account.rotated_at,
                deleted_at=account.deleted_at,
            )
        )
        await self._session.flush()

    async def get(self, tenant_id: TenantId, account_id: str) -> ServiceAccount | None:
        """Return one of the tenant's accounts that is not deleted, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(ServiceAccountRow)
            .where(col(ServiceAccountRow.tenant_id) == tenant_id)
            .where(col(ServiceAccountRow.id) == account_id)
            .where(col(ServiceAccountRow.deleted_at).is_(None))
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        return _account(row) if row else None

    @of_all_tenants
    async def list_of_platform(self) -> list[ServiceAccount]:
        """Return the platform's own accounts, newest first; no deleted ones."""
        rows = await self._session.scalars(
            select(ServiceAccountRow)
            .where(col(ServiceAccountRow.tenant_id).is_(None))
            .where(col(ServiceAccountRow.deleted_at).is_(None))
            .order_by(col(ServiceAccountRow.id).desc())
        )
        return [_account(row) for row in rows]

    async def list(self, tenant_id: TenantId, *, after: str | None, limit: int) -> list[ServiceAccount]:
        """Return up to ``limit`` accounts with an id below ``after``, newest first; no deleted ones."""
        query = (
            select(ServiceAccountRow)
            .where(col(ServiceAccountRow.tenant_id) == tenant_id)
            .where(col(ServiceAccountRow.deleted_at).is_(None))
        )
        if after is not None:
            query = query.where(col(ServiceAccountRow.id) < after)
        rows = await self._session.scalars(query.order_by(col(ServiceAccountRow.id).desc()).limit(limit))
        return [_account(row) for row in rows]

    @of_all_tenants
    async def by_client_id_of_all_tenants(self, client_id: str) -> ServiceAccount | None:
        """Return the account that signs in under an id."""
        row = await self._session.scalar(
            select(ServiceAccountRow)
            .where(col(ServiceAccountRow.id) == client_id)
            .where(col(ServiceAccountRow.deleted_at).is_(None))
            .execution_options(populate_existing=True)
        )
        return _account(row) if row else None

    @of_all_tenants
    async def by_token_of_all_tenants(self, client_id: str, token_id: str) -> ServiceAccount | None:
        """Return the account of an access token, unless that token was revoked."""
        row = await self._session.scalar(
            select(ServiceAccountRow)
            .where(col(ServiceAccountRow.id) == client_id)
            .where(col(ServiceAccountRow.deleted_at).is_(None))
            .where(~is_revoked(token_id))
        )
        return _account(row) if row else None

    @of_all_tenants
    async def set_secret(
        self, account_id: str, *, secret_hash: bytes, pepper_version: int, generation: int, at: datetime
    ) -> None:
        """Replace the secret."""
        await self._session.execute(
            update(ServiceAccountRow)
            .where(col(ServiceAccountRow.id) == account_id)
            .values(secret_hash=secret_hash, pepper_version=pepper_version, generation=generation, rotated_at=at)
        )

    @of_all_tenants
    async def delete(self, account_id: str, at: datetime) -> None:
        """Take the account away; its row stays, for what the ledger and the audit log say of it."""
        await self._session.execute(
            update(ServiceAccountRow)
            .where(col(ServiceAccountRow.id) == account_id)
            .where(col(ServiceAccountRow.deleted_at).is_(None))
            .values(deleted_at=at)
        )
