"""API keys: their exact written form, and what one may do.

``fc_live_<id: 12 base62>_<secret: 32 base62><checksum: 6 base62>``, or ``fc_test_…``. The checksum is the CRC-32 of
everything before it, so that a mistyped key is refused with no I/O. The secret has 190 bits.
"""

import re
import secrets
import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from backend.domain.errors import AddressNotAllowed, KeyExpired, KeyRevoked, TenantSuspended
from backend.domain.ids import KeyId, TenantId
from backend.domain.limits import Enforcement, QuotaRule, RateRule
from backend.domain.lowered_limits import NOTHING_LOWERED, LoweredLimits
from backend.domain.networks import address_in
from backend.domain.plans import Plan
from backend.domain.scopes import Scope
from backend.domain.tenants import TenantStatus

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = [high + low for high in BASE62 for low in BASE62]
# A byte stands for a digit four times over. The eight that would give the first digits a fifth time are thrown away.
_DIGIT_OF_BYTE = bytes(ord(BASE62[byte % 62]) for byte in range(256))
_BIASED = bytes(range(4 * 62, 256))
_KEY = re.compile(r"fc_(live|test)_([0-9A-Za-z]{12})_([0-9A-Za-z]{32})([0-9A-Za-z]{6})", re.ASCII)


class Environment(StrEnum):
    """Live keys are billed; test keys never are."""

    LIVE = "live"
    TEST = "test"


class KeyStatus(StrEnum):
    """Where a key is in its life, as the API shows it."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key as a caller sent it, its form and checksum already verified."""

    environment: Environment
    lookup_id: str
    secret: str


def _checksum(text: str) -> str:
    value, low = divmod(zlib.crc32(text.encode("ascii")), 3844)
    high, middle = divmod(value, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def _random_base62(length: int) -> str:
    digits = b""
    while len(digits) < length:
        # A few more than are needed, so that one draw nearly always is enough.
        digits += secrets.token_bytes(length + 8).translate(_DIGIT_OF_BYTE, _BIASED)
    return digits[:length].decode()


def mint_key(environment: Environment) -> tuple[str, PresentedKey]:
    """Return a fresh key in its written form, and the same taken apart."""
    lookup_id = _random_base62(12)
    written, secret = mint_secret(environment, lookup_id)
    return written, PresentedKey(environment, lookup_id, secret)


def mint_secret(environment: Environment, lookup_id: str) -> tuple[str, str]:
    """Return the written form of a key with a fresh secret, and that secret."""
    secret = _random_base62(32)
    return write_key(environment, lookup_id, secret), secret


def write_key(environment: Environment, lookup_id: str, secret: str) -> str:
    """Return the written form of a key, with its checksum."""
    body = f"fc_{environment}_{lookup_id}_{secret}"
    return body + _checksum(body)


def parse_key(text: str) -> PresentedKey | None:
    """Take a written key apart; ``None`` when its form or its checksum is wrong. No I/O."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-6]) != match[4]:
        return None
    return PresentedKey(Environment(match[1]), match[2], match[3])


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousSecret:
    """The secret before the last rotation, which verifies until ``valid_until``."""

    secret_hash: bytes
    pepper_version: int
    valid_until: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored key. ``version`` grows with every change that a cached copy must notice, ``generation`` with its secret.

    ``last_used_at`` is the key's last use, with whichever secret.
    """

    id: KeyId
    tenant_id: TenantId
    lookup_id: str
    name: str
    environment: Environment
    secret_hash: bytes
    pepper_version: int
    last4: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None
    allowed_cidrs: tuple[str, ...] | None
    rate_per_minute: int | None
    monthly_quota: int | None
    metadata: dict[str, str]
    generation: int
    version: int
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    previous: PreviousSecret | None = None

    @property
    def prefix(self) -> str:
        """The part that may be shown."""
        return f"fc_{self.environment}_{self.lookup_id}"

    def status_at(self, instant: datetime) -> KeyStatus:
        """Return where the key is in its life at that instant."""
        if self.revoked_at is not None:
            return KeyStatus.REVOKED
        if self.expires_at is not None and self.expires_at <= instant:
            return KeyStatus.EXPIRED
        return KeyStatus.ACTIVE

    def overlap_at(self, instant: datetime) -> PreviousSecret | None:
        """Return the secret before the last rotation as long as it still verifies."""
        if self.previous is None or self.previous.valid_until <= instant:
            return None
        return self.previous

    def accepts(self, generation: int, instant: datetime) -> bool:
        """Whether a secret that verified as the key's ``generation``-th is still one of its secrets."""
        if generation == self.generation:
            return True
        return generation == self.generation - 1 and self.overlap_at(instant) is not None

    def rotated(
        self, *, secret_hash: bytes, pepper_version: int, last4: str, at: datetime, overlap: timedelta
    ) -> "ApiKey":
        """Return the key with a new secret; the old one goes on for the overlap, and never longer than the key."""
        valid_until = at + overlap
        if self.expires_at is not None:
            valid_until = min(valid_until, self.expires_at)
        return replace(
            self,
            secret_hash=secret_hash,
            pepper_version=pepper_version,
            last4=last4,
            generation=self.generation + 1,
            version=self.version + 1,
            previous=PreviousSecret(
                secret_hash=self.secret_hash,
                pepper_version=self.pepper_version,
                valid_until=valid_until,
                last_used_at=self.last_used_at,
            ),
        )


def audit_view(key: ApiKey) -> dict[str, Any]:
    """Return what the audit log keeps of a key: nothing secret, nothing derived from a secret."""
    return {
        "name": key.name,
        "environment": key.environment.value,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "models": None if key.models is None else list(key.models),
        "allowed_cidrs": None if key.allowed_cidrs is None else list(key.allowed_cidrs),
        "rate_per_minute": key.rate_per_minute,
        "monthly_quota": key.monthly_quota,
        "metadata": dict(key.metadata),
        "generation": key.generation,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        "previous_valid_until": key.previous.valid_until.isoformat() if key.previous else None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrant:
    """All that a prediction needs to know about a key, read at once and then cached.

    ``tenant_version`` and ``key.version`` are the epochs at which it was read: admission refuses the grant as stale
    when either has moved on since. At ``plan_ends_at`` the tenant changes its plan, and the grant is to be read again.
    """

    key: ApiKey
    tenant_status: TenantStatus
    tenant_version: int
    plan: Plan
    rates: tuple[RateRule, ...]
    quotas: tuple[QuotaRule, ...]
    plan_ends_at: datetime | None = None
    model_rates: tuple[RateRule, ...] = ()
    enforcement: Enforcement = Enforcement.ENFORCE

    @property
    def is_unbounded(self) -> bool:
        """Whether the key may be used at any time and from anywhere, as far as this copy knows."""
        key = self.key
        return (
            key.revoked_at is None
            and key.expires_at is None
            and key.allowed_cidrs is None
            and self.tenant_status is not TenantStatus.SUSPENDED
        )

    def require_usable(self, instant: datetime, address: str | None) -> None:
        """Refuse a verified key that may not be used now, or not from there.

        Raises:
            KeyRevoked, KeyExpired, TenantSuspended, AddressNotAllowed: the first of these that holds.
        """
        status = self.key.status_at(instant)
        if status is KeyStatus.REVOKED:
            raise KeyRevoked
        if status is KeyStatus.EXPIRED:
            raise KeyExpired
        if self.tenant_status is TenantStatus.SUSPENDED:
            raise TenantSuspended
        if self.key.allowed_cidrs is not None and not address_in(address, self.key.allowed_cidrs):
            raise AddressNotAllowed

    @classmethod
    def assemble(
        cls,
        *,
        key: ApiKey,
        tenant_status: TenantStatus,
        tenant_version: int,
        plan: Plan,
        plan_ends_at: datetime | None = None,
        lowered: LoweredLimits = NOTHING_LOWERED,
        enforcement: Enforcement = Enforcement.ENFORCE,
    ) -> "KeyGrant":
        """Work out the limits that apply. A key without a limit of its own takes its tenant's."""
        tenant_rate = lowered.rate_under(plan)
        key_rate = key.rate_per_minute if key.rate_per_minute is not None else tenant_rate
        quotas = [lowered.quota_under(plan, key.tenant_id)]
        if key.monthly_quota is not None:
            quotas.append(QuotaRule(scope="key", subject=key.id, limit=key.monthly_quota))
        return cls(
            key=key,
            tenant_status=tenant_status,
            tenant_version=tenant_version,
            plan=plan,
            model_rates=lowered.model_rules(plan),
            rates=(
                RateRule(scope="key", subject=key.id, per_window=min(key_rate, tenant_rate)),
                RateRule(scope="tenant", subject=key.tenant_id, per_window=tenant_rate),
            ),
            quotas=tuple(quotas),
            plan_ends_at=plan_ends_at,
            enforcement=enforcement,
        )


@dataclass(frozen=True, slots=True)
class VerifiedKey:
    """A grant whose secret was presented, and as the secret of which generation."""

    grant: KeyGrant
    generation: int
