"""What could not be told to the shared admission while it was away, and is told when it is back."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from backend.domain.admission import Lease, Settlement
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.services.ports import Admission, HealthProbe

log = logging.getLogger(__name__)

End = Settlement | Lease
"""A lease that was used, or one that is given back."""

MOST_ENDS = 10_000
MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_RECOUNTS = 100_000
AT_ONCE = 64
"""How many are told together."""


class SharedAdmission(Admission, HealthProbe, Protocol):
    """An admission that many processes share, and that can be away."""

    @property
    def is_away(self) -> bool:
        """Whether it is known not to answer; no I/O."""
        ...

    async def recovered(self) -> bool:
        """Whether it answers now. Never raises, and does not wait again for what is known to be dead."""
        ...

    async def recount(self, lease: Lease) -> None:
        """Forget the quota counters of a lease, so that they begin again with what the ledger holds.

        Raises:
            EnforcementUnavailable: it does not answer.
        """
        ...


class Backlog:
    """Announcements, ends of leases, and counters that missed something. Everything in it may be told twice.

    It is bounded. An end that does not fit any more becomes a recount: the ledger knows what was used.
    """

    def __init__(self) -> None:
        self._announcements: dict[tuple[TenantId, str | None], int] = {}
        self._ends: deque[End] = deque()
        self._answer_bytes = 0
        self._recounts: dict[tuple[object, ...], Lease] = {}
        self._being_told = 0

    def __len__(self) -> int:
        return len(self._announcements) + len(self._ends) + len(self._recounts) + self._being_told

    def __bool__(self) -> bool:
        # Every request asks.
        return bool(self._announcements or self._ends or self._recounts or self._being_told)

    def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Keep an announcement."""
        name = (tenant_id, credential_id)
        self._announcements[name] = max(version, self._announcements.get(name, version))

    def end(self, end: End) -> None:
        """Keep a settlement, or a lease that was given back. Rows for the cache are not worth keeping."""
        if len(self._ends) >= MOST_ENDS:
            self.recount(end.lease if isinstance(end, Settlement) else end)
            return
        if isinstance(end, Settlement):
            size = 0 if end.answer is None else len(end.answer.body)
            fits = self._answer_bytes + size <= MOST_ANSWER_BYTES
            self._answer_bytes += size if fits else 0
            end = replace(end, cache_fill=(), answer=end.answer if fits else None)
        self._ends.append(end)

    def recount(self, lease: Lease) -> None:
        """Keep in mind that the counters of a lease missed its use."""
        if not lease.quotas:
            return
        name = (lease.tenant_id, lease.environment, lease.period, lease.quotas)
        if len(self._recounts) < MOST_RECOUNTS:
            self._recounts[name] = lease
        elif name not in self._recounts:
            log.warning("a quota counter stays too low until it is reconciled")

    async def deliver(self, shared: SharedAdmission) -> None:
        """Tell everything. What cannot be told stays.

        Raises:
            EnforcementUnavailable: the shared admission went away again.
        """
        while self._announcements:
            name, version = next(iter(self._announcements.items()))
            await shared.announce(*name, version)
            if self._announcements.get(name) == version:
                del self._announcements[name]
        while self._ends:
            some = [self._ends.popleft() for _ in range(min(AT_ONCE, len(self._ends)))]
            self._keep(await self._tell(some, lambda end: _end(shared, end)), self._ends.append)
        self._answer_bytes = 0
        while self._recounts:
            names = list(self._recounts)[:AT_ONCE]
            leases = [self._recounts.pop(name) for name in names]
            self._keep(await self._tell(leases, shared.recount), self.recount)

    async def _tell(self, some: Sequence[End], tell: Callable[..., Awaitable[None]]) -> list[End]:
        """Tell some together; return those that could not be told. Meanwhile they still are in the backlog."""
        self._being_told = len(some)
        try:
            return await _told(some, tell)
        finally:
            self._being_told = 0

    @staticmethod
    def _keep(untold: list[End], keep: Callable[..., None]) -> None:
        for each in untold:
            keep(each)
        if untold:
            raise EnforcementUnavailable(retry_after_s=1)


async def _end(shared: SharedAdmission, end: End) -> None:
    if isinstance(end, Settlement):
        await shared.settle(end.lease.tenant_id, end)
    else:
        await shared.release(end.tenant_id, end)


async def _told(some: Sequence[End], tell: Callable[..., Awaitable[None]]) -> list[End]:
    outcomes = await asyncio.gather(*(tell(each) for each in some), return_exceptions=True)
    untold = []
    for each, outcome in zip(some, outcomes, strict=True):
        if isinstance(outcome, EnforcementUnavailable):
            untold.append(each)
        elif outcome is not None:
            log.warning("the shared admission could not be told of a lease", extra={"cause": type(outcome).__name__})
    return untold
