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
"""How long a settlement waits at most for others to be settled with: what it lets go of is counted until then."""

MOST_WAITING = 16
"""Of one tenant. One call for many costs little more than for one, but admission's calls grow with the leases held."""


class Settler:
    """Settles and releases leases, if admission can be reached."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._unfinished: set[asyncio.Task[None]] = set()
        self._waiting: dict[TenantId, list[Settlement]] = {}
        self._filling: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None

    def settle_soon(self, settlement: Settlement) -> None:
        """Settle in a moment, with all others until then."""
        if self._timer is None:
            # It is not called off when it turns out not to be needed, which costs as much as to begin another one.
            self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self._look)
        for digest, _ in settlement.cache_fill:
            self._filling.add(digest)
        tenant_id = settlement.lease.tenant_id
        group = self._waiting.get(tenant_id)
        if group is None:
            self._waiting[tenant_id] = [settlement]
            return
        group.append(settlement)
        if len(group) >= MOST_WAITING:
            self._settle_tenant(tenant_id)

    def settle_when_answered(self) -> None:
        """Settle a lone caller's lease as soon as the answer has left. To be called when nobody is under way.

        The server would only rest until the caller asks again. A crowd's leases wait: one call for many costs as much.
        """
        if len(self._waiting) == 1 and len(next(iter(self._waiting.values()))) == 1:
            asyncio.get_running_loop().call_soon(self.settle_waiting)

    def is_filling(self, cache_keys: Sequence[bytes]) -> bool:
        """Whether one of these rows waits to be put in the cache."""
        return bool(self._filling) and not self._filling.isdisjoint(cache_keys)

    async def settle_first(self, tenant_id: TenantId) -> None:
        """Settle what waits of a tenant before anything that is asked of admission from now on."""
        self._settle_tenant(tenant_id)
        # The call leaves in the next turn of the loop, and this one comes behind it.
        await asyncio.sleep(0)

    def settle_waiting(self) -> None:
        """Begin to settle all that waits."""
        groups = list(self._waiting.items())
        self._waiting = {}
        self._filling.clear()
        for first in range(0, len(groups), TENANTS_TOGETHER):
            self._begin(groups[first : first + TENANTS_TOGETHER])

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

    def _settle_tenant(self, tenant_id: TenantId) -> None:
        group = self._waiting.pop(tenant_id, None)
        if group is not None:
            self._filling.difference_update([digest for each in group for digest, _ in each.cache_fill])
            self._begin([(tenant_id, group)])

    def _begin(self, groups: Sequence[tuple[TenantId, Sequence[Settlement]]]) -> None:
        task = asyncio.create_task(self._settle_groups(groups))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

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
