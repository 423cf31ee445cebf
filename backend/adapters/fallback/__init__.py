"""What happens while the shared admission is away, stated in one place. Knows no technology.

admission.py        the shared admission, with this process's share of the limits to fall back on
backlog.py          what the shared admission has to be told when it is back
login_throttle.py   the shared throttle, with this process's own to fall back on
"""

from backend.adapters.fallback.admission import FallbackAdmission
from backend.adapters.fallback.login_throttle import FallbackLoginThrottle

__all__ = ["FallbackAdmission", "FallbackLoginThrottle"]
