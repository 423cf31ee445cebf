"""Requests of one credential that arrive in the same turn of the event loop, decided by one call.

A script call costs Redis some forty microseconds, nearly all of them for reading and writing the same limits that the
call before it has just written. A busy customer's requests come several at a time, so whoever comes first waits for
the end of the turn and asks for all of them. Those that cannot be admitted so ask by themselves, in the usual way,
which knows every case and every reason.
"""

import asyncio

from backend.adapters.redis import wire
from backend.adapters.redis.line import Reply, Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.wordings import Wording
from backend.domain.admission import AdmissionDecision, AdmissionRequest, Lease, Standing, Verdict
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaState, owing_states, period_end_s

MOST_REQUESTS = 64
MOST_ROWS = 256
"""Of one call: while it runs, nobody else is served."""


class _Group:
    """What waits for the end of a turn. Who came first asks for all; the others wait for the answer."""

    __slots__ = ("numbers", "others", "requests", "rows", "wording")

    def __init__(self, wording: Wording, numbers: bytes) -> None:
        self.wording = wording
        self.numbers = numbers
        self.requests: list[AdmissionRequest] = []
        self.others: list[asyncio.Future[AdmissionDecision | None]] = []
        self.rows = 0

    def takes(self, numbers: bytes, cost: int) -> bool:
        """Whether one more request may come along."""
        return self.numbers is numbers and len(self.requests) < MOST_REQUESTS and self.rows + cost <= MOST_ROWS

    def add(self, request: AdmissionRequest) -> None:
        """Take one more request along."""
        self.requests.append(request)
        self.rows += request.cost


class Turns:
    """Groups requests by their limits; for one event loop."""

    def __init__(self, runner: ScriptRunner) -> None:
        self._redis = runner
        self._script = Script("admit_all")
        self._groups: dict[int, _Group] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def admit(
        self, tenant_id: TenantId, request: AdmissionRequest, wording: Wording, numbers: bytes
    ) -> AdmissionDecision | None:
        """Decide a request with others of this turn; ``None`` when it has to ask by itself.

        Raises:
            EnforcementUnavailable: Redis does not answer.
        """
        place = id(wording)  # which the group keeps alive
        group = self._groups.get(place)
        if group is not None and group.takes(numbers, request.cost):
            group.add(request)
            # Kept: to ask which one runs is a system call.
            loop = self._loop = self._loop or asyncio.get_running_loop()
            waits: asyncio.Future[AdmissionDecision | None] = loop.create_future()
            group.others.append(waits)
            return await waits
        group = self._groups[place] = _Group(wording, numbers)
        group.add(request)
        decided: list[AdmissionDecision] = []
        try:
            await asyncio.sleep(0)
            self._close(place, group)
            if group.others:
                decided = await self._ask(tenant_id, group)
        except EnforcementUnavailable:
            for waits in group.others:
                if not waits.done():
                    waits.set_exception(EnforcementUnavailable(retry_after_s=1))
            raise
        finally:
            # Should this one leave, the others ask by themselves.
            self._close(place, group)
            for behind, waits in enumerate(group.others, 1):
                if not waits.done():
                    waits.set_result(decided[behind] if behind < len(decided) else None)
        return decided[0] if decided else None

    def _close(self, place: int, group: _Group) -> None:
        """Let nobody else join."""
        if self._groups.get(place) is group:
            del self._groups[place]

    async def _ask(self, tenant_id: TenantId, group: _Group) -> list[AdmissionDecision]:
        call = wire.admit_all_call(tenant_id, group.requests, group.wording, group.numbers)
        return _decisions(tenant_id, group, await self._redis.run(self._script, call.keys, call.args))


def _decisions(tenant_id: TenantId, group: _Group, reply: Reply) -> list[AdmissionDecision]:
    """Return the decisions on those that were admitted, in their order."""
    admitted = int(reply[0] or 0)
    if not admitted:
        return []
    first = group.requests[0]
    rates, quotas, period = first.rates, first.quotas, group.wording.period
    numbers = wire.read_numbers(reply)
    owed, counted = numbers[1 : 1 + len(rates)], [int(number) for number in numbers[1 + len(rates) :]]
    counts = list(zip(quotas, counted[::2], counted[1::2], strict=True))
    resets_at_s = period_end_s(period)
    decided: list[AdmissionDecision] = []
    spent, row_at = 0, 2
    for request in group.requests[:admitted]:
        spent += request.cost
        rows = reply[row_at : row_at + len(request.cache_keys)]
        row_at += len(rows)
        standing = Standing(
            owing_states(rates, [rows_owed + spent for rows_owed in owed]),
            tuple([QuotaState(rule, used, reserved + spent, resets_at_s) for rule, used, reserved in counts]),
        )
        environment, cost = request.environment, request.cost
        lease = Lease(request.lease_id, tenant_id, request.credential_id, environment, period, cost, quotas, None)
        decided.append(AdmissionDecision(Verdict.ADMITTED, standing, None, wire.as_rows(rows), lease))
    return decided
