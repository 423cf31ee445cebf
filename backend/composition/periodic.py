"""Work that is done again and again as long as the application runs."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from backend.adapters.periodic import Periodic


async def run_periodically(
    stack: AsyncExitStack, name: str, work: Callable[[], Awaitable[object]], *, every_s: float
) -> None:
    """Start the work and end it with the stack."""
    periodic = Periodic(name, work, every_s=every_s)
    periodic.start()
    stack.push_async_callback(periodic.aclose)
