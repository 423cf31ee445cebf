"""Calls out over HTTP, to addresses that somebody else named.

outbound.py    checks whom it calls, connects to the very address that it checked, and bounds everything
resolver.py    the system's resolver, on threads of its own
"""

from backend.adapters.http.outbound import HttpxOutbound, OutboundLimits
from backend.adapters.http.resolver import SystemResolver

__all__ = ["HttpxOutbound", "OutboundLimits", "SystemResolver"]
