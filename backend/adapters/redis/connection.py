"""What carries calls to the Redis that an address names; nothing is connected before the first call."""

from backend.adapters.redis.address import Kind, parse_address
from backend.adapters.redis.cluster import ClusterLine
from backend.adapters.redis.coalescing import CoalescingLine
from backend.adapters.redis.dialing import Dialer
from backend.adapters.redis.line import Line


def open_line(url: str, timeout_s: float) -> Line:
    """Return the way to a Redis. Close it with ``aclose()``.

    Args:
        url: see ``address.py``.
        timeout_s: bound on each call.

    Raises:
        UnusableRedisUrl: it is none.
    """
    address = parse_address(url)
    if address.kind is Kind.CLUSTER:
        return ClusterLine(address, timeout_s)
    return CoalescingLine(Dialer(address, timeout_s), timeout_s)
