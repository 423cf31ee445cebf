"""API keys in SQL."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from backend.adapters.db.row_security import tenant_rows
from backend.adapters.db.tables import ApiKeyRow, TenantRow
from backend.domain.api_keys import ApiKey, Environment, KeyStatus, PreviousSecret
from backend.domain.ids import KeyId, TenantId
from backend.domain.scopes import Scope, format_scopes
from backend.services.ports.store import KeyFilter


def key_from_row(row: ApiKeyRow) -> ApiKey:
    """Return the domain value of a row."""
    return ApiKey(
        id=KeyId(row.id),
        tenant_id=TenantId(row.tenant_id),
        lookup_id=row.lookup_id,
        name=row.name,
        environment=Environment(row.environment),
        secret_hash=row.secret_hash,
        pepper_version=row.pepper_version,
        last4=row.last4,
        scopes=frozenset(Scope(word) for word in row.scopes.split()),
        models=None if row.models is None else tuple(row.models),
        allowed_cidrs=None if row.allowed_cidrs is None else tuple(row.allowed_cidrs),
        rate_per_minute=row.rate_per_minute,
        monthly_quota=row.monthly_quota,
        metadata=dict(row.labels),
        generation=row.generation,
        version=row.version,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
        previous=_previous(row),
    )


def _previous(row: ApiKeyRow) -> PreviousSecret | None:
    if row.previous_hash is None or row.previous_pepper_version is None or row.previous_valid_until is None:
        return None
    return PreviousSecret(
        secret_hash=row.previous_hash,
        pepper_version=row.previous_pepper_version,
        valid_until=row.previous_valid_until,
        last_used_at=row.previous_last_used_at,
    )


def _changeable(key: ApiKey) -> dict[str, Any]:
    """Return the columns that a key's life can change, but for its last use."""
    previous = key.previous
    return {
        "name": key.name,
        "secret_hash": key.secret_hash,
        "pepper_version": key.pepper_version,
        "last4": key.last4,
        "scopes": format_scopes(key.scopes),
        "models": None if key.models is None else list(key.models),
        "allowed_cidrs": None if key.allowed_cidrs is None else list(key.allowed_cidrs),
        "rate_per_minute": key.rate_per_minute,
        "monthly_quota": key.monthly_quota,
        "labels": key.metadata,
        "generation": key.generation,
        "version": key.version,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "previous_hash": previous.secret_hash if previous else None,
        "previous_pepper_version": previous.pepper_version if previous else None,
        "previous_valid_until": previous.valid_until if previous else None,
        "previous_last_used_at": previous.last_used_at if previous else None,
    }


@tenant_rows
class SqlApiKeys:
    """A tenant's API keys."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, tenant_id: TenantId, key: ApiKey) -> None:
        """Store a new key."""
        self._session.add(
            ApiKeyRow(
                id=key.id,
                tenant_id=tenant_id,
                lookup_id=key.lookup_id,
                environment=key.environment,
                created_by=key.created_by,
                created_at=key.created_at,
                last_used_at=key.last_used_at,
                **_changeable(key),
            )
        )
        await self._session.flush()

    async def get(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey | None:
        """Return one key of the tenant."""
        row = await self._session.scalar(
            select(ApiKeyRow)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.id) == key_id)
            .execution_options(populate_existing=True)
        )
        return key_from_row(row) if row else None

    async def hold(self, tenant_id: TenantId, key_id: KeyId) -> ApiKey | None:
        """Return one key of the tenant, its row locked until the unit ends."""
        row = await self._session.scalar(
            select(ApiKeyRow)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.id) == key_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        return key_from_row(row) if row else None

    async def store(self, tenant_id: TenantId, key: ApiKey) -> None:
        """Store a changed key in place of the one that is there."""
        await self._session.execute(
            update(ApiKeyRow)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.id) == key.id)
            .values(**_changeable(key))
        )

    async def by_lookup_id(self, tenant_id: TenantId, lookup_id: str) -> ApiKey | None:
        """Return the tenant's key with that id in its written form."""
        row = await self._session.scalar(
            select(ApiKeyRow).where(col(ApiKeyRow.tenant_id) == tenant_id).where(col(ApiKeyRow.lookup_id) == lookup_id)
        )
        return key_from_row(row) if row else None

    async def list(
        self, tenant_id: TenantId, wanted: KeyFilter, *, now: datetime, after: str | None, limit: int
    ) -> list[ApiKey]:
        """Return up to ``limit`` keys with an id below ``after``, newest first."""
        query = select(ApiKeyRow).where(col(ApiKeyRow.tenant_id) == tenant_id)
        expired = col(ApiKeyRow.expires_at).is_not(None) & (col(ApiKeyRow.expires_at) <= now)
        match wanted.status:
            case KeyStatus.REVOKED:
                query = query.where(col(ApiKeyRow.revoked_at).is_not(None))
            case KeyStatus.EXPIRED:
                query = query.where(col(ApiKeyRow.revoked_at).is_(None)).where(expired)
            case KeyStatus.ACTIVE:
                query = query.where(col(ApiKeyRow.revoked_at).is_(None)).where(~expired)
        if wanted.environment is not None:
            query = query.where(col(ApiKeyRow.environment) == wanted.environment)
        if after is not None:
            query = query.where(col(ApiKeyRow.id) < after)
        rows = await self._session.scalars(query.order_by(col(ApiKeyRow.id).desc()).limit(limit))
        return [key_from_row(row) for row in rows]

    async def monthly_quotas(self, tenant_id: TenantId) -> dict[KeyId, int]:
        """Return the quota of each of the tenant's keys that has one of its own, revoked or not."""
        rows = await self._session.execute(
            select(ApiKeyRow.id, ApiKeyRow.monthly_quota)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.monthly_quota).is_not(None))
        )
        return {KeyId(key_id): quota for key_id, quota in rows if quota is not None}

    async def count_unrevoked(self, tenant_id: TenantId) -> int:
        """Count the tenant's keys that are not revoked; holds off concurrent creation until the unit ends."""
        # The tenant's row is the lock: two creations at once must not both see the last free place.
        await self._session.execute(select(TenantRow.id).where(col(TenantRow.id) == tenant_id).with_for_update())
        count = await self._session.scalar(
            select(func.count())
            .select_from(ApiKeyRow)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.revoked_at).is_(None))
        )
        return count or 0

    async def revoke(self, tenant_id: TenantId, key_id: KeyId, at: datetime) -> ApiKey | None:
        """Revoke a key and return it; one revoked before keeps its first instant."""
        await self._session.execute(
            update(ApiKeyRow)
            .where(col(ApiKeyRow.tenant_id) == tenant_id)
            .where(col(ApiKeyRow.id) == key_id)
            .where(col(ApiKeyRow.revoked_at).is_(None))
            .values(revoked_at=at, version=ApiKeyRow.version + 1)
        )
        return await self.get(tenant_id, key_id)
