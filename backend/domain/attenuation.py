"""The one rule of handing on: what somebody makes is never wider than they are.

API keys, service accounts and invitations all ask here. ``None`` in a :class:`Reach` is no restriction, so only an
unrestricted grantor can leave something out.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from backend.domain.errors import RoleNotGrantable, ScopeExceedsGrantor
from backend.domain.scopes import ROLE_SCOPES, Role, Scope, format_scopes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a credential reaches, in every direction in which it can be narrowed."""

    scopes: frozenset[Scope]
    models: tuple[str, ...] | None = None
    allowed_cidrs: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    rate_per_minute: int | None = None
    monthly_quota: int | None = None
    is_test_only: bool = False


def require_within(child: Reach, grantor: Reach) -> None:
    """Refuse to hand out more than one holds.

    Raises:
        ScopeExceedsGrantor: naming the direction in which it is too much.
    """
    excess = child.scopes - grantor.scopes
    if excess:
        raise ScopeExceedsGrantor(f"You cannot grant what you do not hold: {format_scopes(excess)}.")
    if not _models_within(child.models, grantor.models):
        raise ScopeExceedsGrantor("You cannot grant models that you may not call.")
    if not _networks_within(child.allowed_cidrs, grantor.allowed_cidrs):
        raise ScopeExceedsGrantor("You cannot grant networks that you may not call from.")
    if not _at_most(child.expires_at, grantor.expires_at):
        raise ScopeExceedsGrantor("You cannot grant access that outlives your own.")
    if not _at_most(child.rate_per_minute, grantor.rate_per_minute):
        raise ScopeExceedsGrantor("You cannot grant a rate above your own.")
    if not _at_most(child.monthly_quota, grantor.monthly_quota):
        raise ScopeExceedsGrantor("You cannot grant a quota above your own.")
    if grantor.is_test_only and not child.is_test_only:
        raise ScopeExceedsGrantor("With a test key you can only grant what is never billed.")


def require_grantable(role: Role, *, grantor_role: Role | None, grantor_scopes: frozenset[Scope]) -> None:
    """Refuse to give or take a seat above one's own. A seat is its scopes, and an owner's is more than those.

    Raises:
        RoleNotGrantable: the role holds a scope that the grantor lacks, or only an owner can make or unmake it.
    """
    if not ROLE_SCOPES[role] <= grantor_scopes:
        raise RoleNotGrantable
    if role is Role.OWNER and grantor_role is not Role.OWNER:
        raise RoleNotGrantable


def _models_within(child: tuple[str, ...] | None, grantor: tuple[str, ...] | None) -> bool:
    if grantor is None:
        return True
    # Whoever may call a model may call each version and alias of it.
    return child is not None and all({name, name.partition("@")[0]} & set(grantor) for name in child)


def _networks_within(child: tuple[str, ...] | None, grantor: tuple[str, ...] | None) -> bool:
    if grantor is None:
        return True
    if child is None:
        return False
    outer = _collapsed(ipaddress.ip_network(cidr) for cidr in grantor)
    return all(any(_contains(net, ipaddress.ip_network(cidr)) for net in outer) for cidr in child)


def _collapsed(networks: Iterable[Network]) -> list[Network]:
    # Two halves side by side are one network.
    found = list(networks)
    four = [net for net in found if isinstance(net, ipaddress.IPv4Network)]
    six = [net for net in found if isinstance(net, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, ipaddress.IPv4Network) and isinstance(inner, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(outer, ipaddress.IPv6Network) and isinstance(inner, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _at_most(child: datetime | int | None, grantor: datetime | int | None) -> bool:
    if grantor is None:
        return True
    return child is not None and child <= grantor  # type: ignore[operator]  # both are of the same field
