"""What is said of leases once their requests have been answered, off every caller's clock."""

import asyncio
import logging

from backend.domain.admission import Lease, Settlement
from backend.domain.errors import EnforcementUnavailable
from backend.services.ports import Admission

log = logging.getLogger(__name__)

TOGETHER = 4
"""Settlements that share a task, which costs more than one of them. Each waits for the answer to the one before it."""


class Settler:
    """Settles and releases leases, if admission can be reached."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._unfinished: set[asyncio.Task[None]] = set()
        self._group: list[Settlement] = []

    def settle_soon(self, settlement: Settlement) -> None:
        """Settle in the loop's next turn, with others of this one."""
        group = self._group
        group.append(settlement)
        if len(group) == 1:
            task = asyncio.create_task(self._settle_group(group))
            self._unfinished.add(task)
            task.add_done_callback(self._unfinished.discard)
        elif len(group) == TOGETHER:
            self._group = []

    async def settle(self, settlement: Settlement) -> None:
        """Settle at once. The usage is durable: what is lost is a counter, rebuilt from it."""
        try:
            await self._admission.settle(settlement.lease.tenant_id, settlement)
        except EnforcementUnavailable:
            log.warning("lease not settled", extra={"event_id": settlement.lease.id})

    async def release(self, lease: Lease) -> None:
        """Give a lease back; it expires by itself. The caller gets the error for which it is given back."""
        try:
            await self._admission.release(lease.tenant_id, lease)
        except EnforcementUnavailable:
            log.warning("lease not released", extra={"event_id": lease.id})

    async def settled(self) -> None:
        """Wait until everything that was to be settled soon is."""
        if self._unfinished:
            await asyncio.gather(*self._unfinished, return_exceptions=True)

    async def _settle_group(self, group: list[Settlement]) -> None:
        if group is self._group:
            self._group = []
        for settlement in group:
            try:
                await self.settle(settlement)
            except Exception:  # whatever it is, the others of the group are owed theirs
                log.exception("lease not settled", extra={"event_id": settlement.lease.id})
