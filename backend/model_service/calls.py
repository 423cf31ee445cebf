"""Callers who wait, the rows they wait for, and the replies that end the wait."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from backend.domain.errors import ForecourtError
from backend.model_service.manifest import Row


class Call:
    """A caller, waiting for the answers of its rows on its own event loop."""

    __slots__ = ("answers", "doomed", "future", "left", "loop", "open", "queued_at_s", "share", "size", "taken")

    def __init__(self, share: str, size: int) -> None:
        self.share = share
        self.size = size
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[bytes]] = self.loop.create_future()
        self.answers = [b""] * size
        self.left = size
        self.open = True
        self.queued_at_s = monotonic()
        self.taken = False  # a row of it has been in a batch
        self.doomed = False  # one of its rows failed, so the others need not be computed


class Work:
    """One row to compute for one share, and each place where its answer goes."""

    __slots__ = ("key", "row", "waiters")

    def __init__(self, key: tuple[str, bytes], row: Row) -> None:
        self.key = key
        self.row = row
        self.waiters: list[tuple[Call, int]] = []

    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return any(call.open and not call.doomed for call, _ in self.waiters)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a caller gets: all answers, or one refusal."""

    call: Call
    error: ForecourtError | None


def deliver(replies: Iterable[Reply]) -> None:
    """Hand replies to their event loops, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Reply]] = {}
    for reply in replies:
        by_loop.setdefault(reply.call.loop, []).append(reply)
    for loop, own in by_loop.items():
        # A loop that was closed has nobody left who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, own)


def _resolve(replies: Sequence[Reply]) -> None:
    for reply in replies:
        future = reply.call.future
        if future.done():
            continue  # the caller left
        if reply.error is None:
            future.set_result(reply.call.answers)
        else:
            future.set_exception(reply.error)
