"""API keys: made, shown, changed, rotated, revoked.

A secret leaves this module once, in the value that creation or rotation returns.
"""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypedDict

from backend.domain.api_keys import ApiKey, Environment, KeyStatus, audit_view, mint_key, mint_secret
from backend.domain.attenuation import Reach, require_within
from backend.domain.audit import Action, AuditEntry
from backend.domain.callers import Caller
from backend.domain.clock import Clock
from backend.domain.errors import (
    FieldError,
    Invalid,
    KeyLimitReached,
    KeyNotChangeable,
    KeyNotRotatable,
    NotFound,
    RotationInProgress,
)
from backend.domain.ids import KeyId, new_id
from backend.domain.models import is_model_reference
from backend.domain.networks import is_network
from backend.domain.scopes import DEFAULT_KEY_SCOPES, Scope
from backend.domain.webhooks import WebhookEvent
from backend.services.announcements import announce
from backend.services.ports import Admission, CursorCodec, KeyHasher, UnitOfWork
from backend.services.ports.store import KeyFilter

_METADATA_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """What somebody wants of a new key; ``None`` is the default or no restriction."""

    name: str
    environment: Environment
    scopes: frozenset[Scope] | None = None
    models: tuple[str, ...] | None = None
    allowed_cidrs: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    monthly_quota: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class KeyChange(TypedDict, total=False):
    """What somebody wants changed of a key; what is not named stays. ``None`` lifts a restriction."""

    name: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None
    allowed_cidrs: tuple[str, ...] | None
    expires_at: datetime | None
    rate_per_minute: int | None
    monthly_quota: int | None
    metadata: dict[str, str]


_LABELS = frozenset({"name", "metadata"})
"""What may be changed of a key that is wider than whoever changes it: it says nothing of what the key may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """Keys, newest first."""

    keys: tuple[ApiKey, ...]
    next_cursor: str | None


class ApiKeyService:
    """What a tenant may do with its keys."""

    def __init__(
        self,
        *,
        unit: UnitOfWork,
        hasher: KeyHasher,
        admission: Admission,
        cursors: CursorCodec,
        clock: Clock,
    ) -> None:
        self._unit = unit
        self._hasher = hasher
        self._admission = admission
        self._cursors = cursors
        self._clock = clock

    async def create(self, caller: Caller, wish: KeyWish) -> tuple[ApiKey, str]:
        """Make a key; return it and its written form, which nobody can ask for again.

        Raises:
            ScopeExceedsGrantor: the key would be wider than whoever makes it.
            KeyLimitReached: the plan allows no more keys.
            Invalid: a field makes no sense.
        """
        scopes = wish.scopes if wish.scopes is not None else DEFAULT_KEY_SCOPES & caller.scopes
        self._require_valid(wish)
        self._require_attenuated(caller, scopes, wish)
        plan = await self._unit.subscriptions.current_plan(caller.tenant_id, self._clock.now())
        if plan is None or await self._unit.api_keys.count_unrevoked(caller.tenant_id) >= plan.max_api_keys:
            raise KeyLimitReached
        written, minted = mint_key(wish.environment)
        secret_hash, pepper_version = self._hasher.hash(minted.secret)
        key = ApiKey(
            id=KeyId(new_id("key")),
            tenant_id=caller.tenant_id,
            lookup_id=minted.lookup_id,
            name=wish.name,
            environment=wish.environment,
            secret_hash=secret_hash,
            pepper_version=pepper_version,
            last4=written[-4:],
            scopes=scopes,
            models=wish.models,
            allowed_cidrs=wish.allowed_cidrs,
            rate_per_minute=wish.rate_per_minute,
            monthly_quota=wish.monthly_quota,
            metadata=wish.metadata,
            generation=1,
            version=1,
            created_by=caller.credential_id,
            created_at=self._clock.now(),
            expires_at=wish.expires_at,
            revoked_at=None,
            last_used_at=None,
        )
        await self._unit.api_keys.add(caller.tenant_id, key)
        await self._record(caller, Action.API_KEY_CREATED, key.id, after=audit_view(key))
        return key, written

    async def get(self, caller: Caller, key_id: str) -> ApiKey:
        """Return one of the tenant's keys.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        key = await self._unit.api_keys.get(caller.tenant_id, KeyId(key_id))
        if key is None:
            raise NotFound
        return key

    async def list(self, caller: Caller, wanted: KeyFilter, *, cursor: str | None, limit: int) -> KeyPage:
        """Return a page of the tenant's keys."""
        purpose = f"api-keys:{caller.tenant_id}:{wanted.status}:{wanted.environment}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        keys = await self._unit.api_keys.list(
            caller.tenant_id, wanted, now=self._clock.now(), after=after, limit=limit + 1
        )
        more = len(keys) > limit
        next_cursor = self._cursors.encode(purpose, keys[limit - 1].id) if more else None
        return KeyPage(keys=tuple(keys[:limit]), next_cursor=next_cursor)

    async def update(self, caller: Caller, key_id: str, change: KeyChange) -> ApiKey:
        """Change a key, with effect on the next request everywhere.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            KeyNotChangeable: it is revoked.
            ScopeExceedsGrantor: the key would then be wider than whoever changes it.
            Invalid: a field makes no sense.
        """
        before = await self._held(caller, key_id)
        if before.revoked_at is not None:
            raise KeyNotChangeable
        key = replace(before, **change)
        wish = _wish_of(key)
        # An instant that was right when it was set may lie in the past by now.
        self._require_valid(wish if "expires_at" in change else replace(wish, expires_at=None))
        if not change.keys() <= _LABELS:
            self._require_attenuated(caller, key.scopes, wish)
        if key == before:
            return before
        key = replace(key, version=before.version + 1)
        await self._unit.api_keys.store(caller.tenant_id, key)
        await self._changed(caller, Action.API_KEY_UPDATED, before, key)
        return key

    async def rotate(self, caller: Caller, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
        """Give a key a new secret; return it and its written form, which nobody can ask for again.

        Both secrets verify during the overlap, which never outlives the key; after it only the new one does.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
            KeyNotRotatable: it is expired or revoked.
            RotationInProgress: the overlap of the last rotation is still running.
            ScopeExceedsGrantor: the key, whose secret the caller would hold, is wider than the caller.
        """
        now = self._clock.now()
        before = await self._held(caller, key_id)
        if before.status_at(now) is not KeyStatus.ACTIVE:
            raise KeyNotRotatable
        self._require_attenuated(caller, before.scopes, _wish_of(before))
        if before.overlap_at(now) is not None:
            raise RotationInProgress
        written, secret = mint_secret(before.environment, before.lookup_id)
        secret_hash, pepper_version = self._hasher.hash(secret)
        key = before.rotated(
            secret_hash=secret_hash, pepper_version=pepper_version, last4=written[-4:], at=now, overlap=overlap
        )
        await self._unit.api_keys.store(caller.tenant_id, key)
        await self._changed(caller, Action.API_KEY_ROTATED, before, key)
        return key, written

    async def revoke(self, caller: Caller, key_id: str) -> ApiKey:
        """Revoke a key, with effect on the next request everywhere. Revoking twice changes nothing.

        Raises:
            NotFound: there is none of that id, or it is another tenant's.
        """
        before = await self.get(caller, key_id)
        if before.revoked_at is not None:
            return before
        key = await self._unit.api_keys.revoke(caller.tenant_id, before.id, self._clock.now())
        if key is None:
            raise NotFound
        await self._changed(caller, Action.API_KEY_REVOKED, before, key)
        told = {"key_id": key.id, "name": key.name, "environment": key.environment.value, "last4": key.last4}
        await announce(self._unit, caller.tenant_id, WebhookEvent.API_KEY_REVOKED, told, self._clock.now())
        return key

    async def _held(self, caller: Caller, key_id: str) -> ApiKey:
        key = await self._unit.api_keys.hold(caller.tenant_id, KeyId(key_id))
        if key is None:
            raise NotFound
        return key

    async def _changed(self, caller: Caller, action: Action, before: ApiKey, key: ApiKey) -> None:
        await self._record(caller, action, key.id, before=audit_view(before), after=audit_view(key))
        self._unit.after_commit(lambda: self._admission.announce(caller.tenant_id, key.id, key.version))

    async def _record(
        self,
        caller: Caller,
        action: Action,
        key_id: KeyId,
        *,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> None:
        entry = AuditEntry(actor=caller.actor, action=action, target_id=key_id, before=before or {}, after=after or {})
        await self._unit.audit.record(caller.tenant_id, entry)

    def _require_valid(self, wish: KeyWish) -> None:
        problems = []
        if wish.expires_at is not None and wish.expires_at <= self._clock.now():
            problems.append(FieldError("/expires_at", "lies in the past"))
        for index, cidr in enumerate(wish.allowed_cidrs or ()):
            if not is_network(cidr):
                problems.append(FieldError(f"/allowed_cidrs/{index}", "is not a network in CIDR notation"))
        for index, reference in enumerate(wish.models or ()):
            if not is_model_reference(reference):
                problems.append(FieldError(f"/models/{index}", "is not the name of a model, version or alias"))
        if any(not _METADATA_KEY.fullmatch(name) for name in wish.metadata):
            problems.append(FieldError("/metadata", "has a name that is not 1-40 letters, digits, dots or dashes"))
        if problems:
            raise Invalid(errors=tuple(problems))

    @staticmethod
    def _require_attenuated(caller: Caller, scopes: frozenset[Scope], wish: KeyWish) -> None:
        child = Reach(
            scopes=scopes,
            models=wish.models,
            allowed_cidrs=wish.allowed_cidrs,
            expires_at=wish.expires_at,
            rate_per_minute=wish.rate_per_minute,
            monthly_quota=wish.monthly_quota,
            is_test_only=wish.environment is Environment.TEST,
        )
        require_within(child, caller.reach)


def _wish_of(key: ApiKey) -> KeyWish:
    """Return what somebody would have to wish for to get this very key."""
    return KeyWish(
        name=key.name,
        environment=key.environment,
        scopes=key.scopes,
        models=key.models,
        allowed_cidrs=key.allowed_cidrs,
        expires_at=key.expires_at,
        rate_per_minute=key.rate_per_minute,
        monthly_quota=key.monthly_quota,
        metadata=key.metadata,
    )
