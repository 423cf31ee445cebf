"""Opens what calls addresses that others name."""

from contextlib import AsyncExitStack

from backend.adapters.http import HttpxOutbound, SystemResolver
from backend.settings import Settings


def open_outbound(settings: Settings, stack: AsyncExitStack) -> HttpxOutbound:
    """Return what calls addresses that tenants name."""
    resolver = SystemResolver()
    stack.callback(resolver.close)
    return HttpxOutbound(resolver, allowed=settings.outbound_allowed_networks)
