"""Scopes: what a credential may do; and roles: the scopes that come with a seat in a tenant."""

from enum import StrEnum


class Scope(StrEnum):
    """One permission, spelt as in an OAuth ``scope`` parameter."""

    PREDICT = "predict"
    MODELS_READ = "models:read"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    LIMITS_READ = "limits:read"
    LIMITS_WRITE = "limits:write"
    USAGE_READ = "usage:read"
    USAGE_EXPORT = "usage:export"
    AUDIT_READ = "audit:read"
    TENANT_WRITE = "tenant:write"
    # Platform scopes: no tenant role holds them.
    ADMIN = "admin"
    USAGE_ALL = "usage:all"
    USAGE_ADJUST = "usage:adjust"
    BILLING_CLOSE = "billing:close"


PLATFORM_SCOPES = frozenset({Scope.ADMIN, Scope.USAGE_ALL, Scope.USAGE_ADJUST, Scope.BILLING_CLOSE})
TENANT_SCOPES = frozenset(Scope) - PLATFORM_SCOPES
DEFAULT_KEY_SCOPES = frozenset({Scope.PREDICT, Scope.MODELS_READ})


class Role(StrEnum):
    """A member's seat in a tenant."""

    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


ROLE_SCOPES: dict[Role, frozenset[Scope]] = {
    Role.OWNER: TENANT_SCOPES,
    Role.ADMIN: TENANT_SCOPES,
    Role.DEVELOPER: frozenset(
        {
            Scope.PREDICT,
            Scope.MODELS_READ,
            Scope.KEYS_READ,
            Scope.KEYS_WRITE,
            Scope.LIMITS_READ,
            Scope.USAGE_READ,
        }
    ),
    Role.BILLING: frozenset({Scope.USAGE_READ, Scope.USAGE_EXPORT, Scope.LIMITS_READ}),
    Role.VIEWER: frozenset(
        {Scope.MODELS_READ, Scope.KEYS_READ, Scope.MEMBERS_READ, Scope.LIMITS_READ, Scope.USAGE_READ}
    ),
}


class PlatformRole(StrEnum):
    """A seat above all tenants."""

    OPERATOR = "operator"
    BILLING_READER = "billing_reader"


PLATFORM_ROLE_SCOPES: dict[PlatformRole, frozenset[Scope]] = {
    PlatformRole.OPERATOR: frozenset(
        {Scope.ADMIN, Scope.USAGE_ALL, Scope.USAGE_ADJUST, Scope.BILLING_CLOSE, Scope.MODELS_READ}
    ),
    PlatformRole.BILLING_READER: frozenset({Scope.USAGE_ALL, Scope.BILLING_CLOSE}),
}


def format_scopes(scopes: frozenset[Scope]) -> str:
    """Return the scopes as OAuth spells a set of them: sorted, separated by one space."""
    return " ".join(sorted(scopes))


def parse_scopes(text: str) -> frozenset[Scope] | None:
    """Read an OAuth scope string; ``None`` when it names a scope that does not exist."""
    try:
        return frozenset(Scope(word) for word in text.split())
    except ValueError:
        return None
