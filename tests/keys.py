"""API keys as the store would hold them, each with everything that a test does not care about filled in."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from backend.domain.api_keys import ApiKey, Environment
from backend.domain.ids import KeyId, TenantId
from backend.domain.scopes import DEFAULT_KEY_SCOPES

MADE_AT = datetime(2026, 7, 15, 12, tzinfo=UTC)


def a_key(lookup_id: str, **changes: Any) -> ApiKey:
    """Return an active live key without limits of its own, with whatever a test cares about."""
    key = ApiKey(
        id=KeyId(f"key_{lookup_id}"),
        tenant_id=TenantId("ten_1"),
        lookup_id=lookup_id,
        name="a key",
        environment=Environment.LIVE,
        secret_hash=b"hash",
        pepper_version=1,
        last4="7654",
        scopes=DEFAULT_KEY_SCOPES,
        models=None,
        allowed_cidrs=None,
        rate_per_minute=None,
        monthly_quota=None,
        metadata={},
        generation=1,
        version=1,
        created_by="usr_1",
        created_at=MADE_AT,
        expires_at=None,
        revoked_at=None,
        last_used_at=None,
    )
    return replace(key, **changes)
