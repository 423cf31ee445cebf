"""The in-process adapters of the embedded shape: one process, one event loop, nothing shared and nothing kept.

They are not doubles: they hold the same rules as the Redis adapters and pass the same contract tests. Whatever a
caller can make grow is bounded, and what gives way is the least recently used.
"""

from backend.adapters.memory.admission import MemoryAdmission
from backend.adapters.memory.login_throttle import MemoryLoginThrottle

__all__ = ["MemoryAdmission", "MemoryLoginThrottle"]
