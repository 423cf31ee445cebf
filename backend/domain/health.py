"""How a resource says that it is well."""

from dataclasses import dataclass
from enum import StrEnum


class HealthStatus(StrEnum):
    """``degraded`` still serves; ``down`` does not."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceHealth:
    """One line of ``/readyz``; ``detail`` holds no secret and no address."""

    name: str
    status: HealthStatus
    detail: str = ""
