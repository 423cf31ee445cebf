"""Something done again and again beside the requests, until it is closed. Knows no technology."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Periodic:
    """Runs work every so often on the running loop; what fails is tried again the next time."""

    def __init__(self, name: str, work: Callable[[], Awaitable[object]], *, every_s: float) -> None:
        self._name = name
        self._work = work
        self._every_s = every_s
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the first run is one interval away."""
        self._task = asyncio.create_task(self._repeat(), name=self._name)

    async def aclose(self) -> None:
        """Let a run that is under way finish, and start no other."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _repeat(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._closing.wait()
            except TimeoutError:
                await self._run()
            else:
                return

    async def _run(self) -> None:
        try:
            await self._work()
        except Exception as error:  # noqa: BLE001  # a task that has died does no work, and nobody would notice
            log.warning("background work failed: %s", self._name, extra={"cause": type(error).__name__})
