"""Health on the wire."""

from backend.api.schemas.common import Out
from backend.domain.health import HealthStatus, ResourceHealth


class LiveOut(Out):
    """The process answers."""

    status: str = "ok"


class ResourceOut(Out):
    """One resource's own word."""

    name: str
    status: HealthStatus
    detail: str


class ReadyOut(Out):
    """Whether requests should be sent here."""

    status: str
    version: str
    resources: list[ResourceOut]

    @classmethod
    def of(cls, lines: tuple[ResourceHealth, ...], version: str) -> "ReadyOut":
        """Return the whole: ready as long as nothing is down."""
        down = any(line.status is HealthStatus.DOWN for line in lines)
        return cls(
            status="unready" if down else "ready",
            version=version,
            resources=[ResourceOut(name=line.name, status=line.status, detail=line.detail) for line in lines],
        )
