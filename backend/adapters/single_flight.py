"""One piece of work at a time for each name, shared by everybody who asks for it meanwhile."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class SingleFlight:
    """Runs work once however many wait for it. A waiter that gives up takes nothing from the others."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[None]] = {}

    def is_running(self, name: Hashable) -> bool:
        """Whether work of that name is under way."""
        return name in self._running

    async def run(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Join the running work of that name, or start it. Its exception reaches every waiter."""
        task = self._running.get(name)
        if task is None:
            task = asyncio.create_task(work())
            self._running[name] = task
            task.add_done_callback(lambda done: self._forget(name, done))
        await asyncio.shield(task)

    def _forget(self, name: Hashable, done: asyncio.Task[None]) -> None:
        del self._running[name]
        if not done.cancelled():
            done.exception()  # Retrieved: an error whose waiters all gave up is not worth a warning.
