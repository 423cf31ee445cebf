"""What is said of leases once their requests have been answered, off every caller's clock."""

import asyncio
import logging
from collections.abc import Sequence

from backend.domain.admission import Lease, Settlement
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.services.ports import Admission

log = logging.getLogger(__name__)

TENANTS_TOGETHER = 4
"""Tenants that share a task, which costs more than one of them. Each waits for the answer to the one before it."""

WITHIN_S = 0.005
"""How long a settlement waits at most for an admission to go along with: what it lets go of is counted until then."""


class Settler:
    """Settles and releases leases, if admission can be reached."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._unfinished: set[asyncio.Task[None]] = set()
        self._waiting: dict[TenantId, list[Settlement]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def settle_soon(self, settlement: Settlement) -> None:
        """Settle before the next admission is asked, or else in a moment, with all others until then."""
        waiting = self._waiting
        if self._timer is None:
            # It is not called off when it turns out not to be needed, which costs as much as to begin another one.
            self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self._look)
        tenant_id = settlement.lease.tenant_id
        group = waiting.get(tenant_id)
        if group is None:
            waiting[tenant_id] = [settlement]
        else:
            group.append(settlement)

    def settle_waiting(self) -> None:
        """Begin to settle what waits. Called before admission is asked, whose call the settlements then go along with:
        a caller who asks for the same row again finds it in the cache."""
        if not self._waiting:
            return
        groups = list(self._waiting.items())
        self._waiting = {}
        for first in range(0, len(groups), TENANTS_TOGETHER):
            task = asyncio.create_task(self._settle_groups(groups[first : first + TENANTS_TOGETHER]))
            self._unfinished.add(task)
            task.add_done_callback(self._unfinished.discard)

    def settle_when_answered(self) -> None:
        """Settle a lone caller's lease as soon as the answer has left. To be called when nobody is under way.

        The caller's next request would have to wait for it. A crowd's leases wait: their call costs as much as that
        of one, and goes along with what is asked anyway.
        """
        if len(self._waiting) == 1 and len(next(iter(self._waiting.values()))) == 1:
            asyncio.get_running_loop().call_soon(self.settle_waiting)

    async def settle(self, settlement: Settlement) -> None:
        """Settle at once. The usage is durable: what is lost is a counter, rebuilt from it."""
        try:
            await self._admission.settle(settlement.lease.tenant_id, settlement)
        except EnforcementUnavailable:
            _not_settled([settlement])

    async def release(self, lease: Lease) -> None:
        """Give a lease back; it expires by itself. The caller gets the error for which it is given back."""
        try:
            await self._admission.release(lease.tenant_id, lease)
        except EnforcementUnavailable:
            log.warning("lease not released", extra={"event_id": lease.id})

    async def settled(self) -> None:
        """Wait until everything that was to be settled soon is."""
        self.settle_waiting()
        if self._unfinished:
            await asyncio.gather(*self._unfinished, return_exceptions=True)

    def _look(self) -> None:
        self._timer = None
        self.settle_waiting()

    async def _settle_groups(self, groups: Sequence[tuple[TenantId, Sequence[Settlement]]]) -> None:
        for tenant_id, settlements in groups:
            try:
                await self._admission.settle_all(tenant_id, settlements)
            except EnforcementUnavailable:
                _not_settled(settlements)
            except Exception:  # whatever it is, the others are owed theirs; and twice changes nothing
                log.exception("leases are settled one by one")
                await self._settle_apart(settlements)

    async def _settle_apart(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            try:
                await self.settle(settlement)
            except Exception:
                log.exception("lease not settled", extra={"event_id": settlement.lease.id})


def _not_settled(settlements: Sequence[Settlement]) -> None:
    for settlement in settlements:
        log.warning("lease not settled", extra={"event_id": settlement.lease.id})
