"""A resource that can say how it is."""

from typing import Protocol

from backend.domain.health import ResourceHealth


class HealthProbe(Protocol):
    """Asked by ``/readyz``."""

    async def check(self) -> tuple[ResourceHealth, ...]:
        """Ask the resource itself, within a bounded time. Never raises."""
        ...
