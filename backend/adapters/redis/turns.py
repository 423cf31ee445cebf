"""Requests of one credential that arrive in the same turn of the event loop, decided by one call.

A script call costs Redis some forty microseconds, nearly all of them for reading and writing the same limits that the
call before it has just written. A busy customer's requests come several at a time, so they are collected, and the last
of a turn asks for all of them; when none says that it is the last, the first does, a turn later. Those that cannot be
admitted so ask by themselves, in the usual way, which knows every case and every reason.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from backend.adapters.redis import wire
from backend.adapters.redis.line import Reply, Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.wordings import Wording
from backend.domain.admission import AdmissionDecision, AdmissionRequest, Lease, Standing, Verdict
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, QuotaState, RateRule, RateState, owing_states, period_end_s

MOST_REQUESTS = 64
MOST_ROWS = 256
"""Of one call: while it runs, nobody else is served."""


class _Group:
    """What was collected in a turn. One of it asks for all; the others wait for the answer."""

    __slots__ = ("_waiting", "is_asked", "is_second", "numbers", "requests", "rows", "wording")

    def __init__(self, wording: Wording, numbers: bytes, *, is_second: bool) -> None:
        self.wording = wording
        self.numbers = numbers
        self.is_second = is_second
        """Whether another group of the credential asks before it."""
        self.requests: list[AdmissionRequest] = []
        self.rows = 0
        self.is_asked = False
        self._waiting: list[tuple[int, asyncio.Future[AdmissionDecision | None]]] = []

    def takes(self, numbers: bytes, cost: int) -> bool:
        """Whether one more request may come along."""
        return self.numbers is numbers and len(self.requests) < MOST_REQUESTS and self.rows + cost <= MOST_ROWS

    def add(self, request: AdmissionRequest) -> int:
        """Take one more request along; return its place."""
        self.requests.append(request)
        self.rows += request.cost
        return len(self.requests) - 1

    def answer(self, place: int, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[AdmissionDecision | None]":
        """Return what will be told to the request in a place."""
        waits: asyncio.Future[AdmissionDecision | None] = loop.create_future()
        self._waiting.append((place, waits))
        return waits

    def use_the_wait(self) -> None:
        """Have done what can be done until the answer is there."""
        for request in self.requests:
            if request.meanwhile is not None:
                request.meanwhile()

    def end(self, decided: list[AdmissionDecision] | None) -> None:
        """Tell all who wait what was decided about those who came first, or that Redis does not answer."""
        for place, waits in self._waiting:
            if waits.done():
                continue
            if decided is None:
                waits.set_exception(EnforcementUnavailable(retry_after_s=1))
            else:
                waits.set_result(_in_place(decided, place))


class _Before(NamedTuple):
    """Where the limits of a group stood before it was admitted: rows owed now, and used and reserved of each quota."""

    rates: tuple[RateRule, ...]
    owed: Sequence[float]
    quotas: Sequence[tuple[QuotaRule, int, int]]
    resets_at_s: int


class _StandingAfter(Standing):
    """Where the limits stand after so many rows more. Worked out when it is looked at: there may be a better time for
    that than now, when all others of the group wait for their decisions."""

    __slots__ = ("_before", "_spent")

    def __init__(self, before: _Before, spent: int) -> None:
        self._before = before
        self._spent = spent

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Standing):
            return NotImplemented
        return (self.rates, self.quotas) == (other.rates, other.quotas)

    def __hash__(self) -> int:
        return hash((self.rates, self.quotas))

    @property
    def rates(self) -> tuple[RateState, ...]:
        before, spent = self._before, self._spent
        return owing_states(before.rates, [rows + spent for rows in before.owed])

    @property
    def quotas(self) -> tuple[QuotaState, ...]:
        before, spent = self._before, self._spent
        return tuple([QuotaState(rule, used, held + spent, before.resets_at_s) for rule, used, held in before.quotas])


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
        # Kept: to ask which one runs is a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        key = id(wording)  # which the group keeps alive
        group = self._groups.get(key)
        if group is not None and group.takes(numbers, request.cost):
            place = group.add(request)
            if request.others_follow or group.is_second:
                return await group.answer(place, loop)
            return await self._lead(tenant_id, key, group, place)
        if group is None and not request.others_follow:
            # There is nobody to ask together with.
            return None
        group = self._groups[key] = _Group(wording, numbers, is_second=group is not None)
        place = group.add(request)
        answer = group.answer(place, loop)
        try:
            await asyncio.sleep(0)
            if group.is_asked:
                return await answer
        except asyncio.CancelledError:
            answer.cancel()
            if not group.is_asked:
                # The others ask by themselves.
                self._close(key, group)
                group.end([])
            raise
        answer.cancel()
        return await self._lead(tenant_id, key, group, place)

    async def _lead(self, tenant_id: TenantId, key: int, group: _Group, place: int) -> AdmissionDecision | None:
        """Ask for a group, on behalf of the request in a place."""
        self._close(key, group)
        try:
            decided = await self._ask(tenant_id, group) if len(group.requests) > 1 else []
        except EnforcementUnavailable:
            group.end(None)
            raise
        except BaseException:
            # This one leaves: the others ask by themselves.
            group.end([])
            raise
        group.end(decided)
        decision = _in_place(decided, place)
        if decision is None and place:
            # Those who came before ask before.
            await asyncio.sleep(0)
        return decision

    def _close(self, key: int, group: _Group) -> None:
        """Let nobody else join."""
        group.is_asked = True
        if self._groups.get(key) is group:
            del self._groups[key]

    async def _ask(self, tenant_id: TenantId, group: _Group) -> list[AdmissionDecision]:
        call = wire.admit_all_call(tenant_id, group.requests, group.wording, group.numbers)
        # In the next turn of the loop: by then the call has left.
        (self._loop or asyncio.get_running_loop()).call_soon(group.use_the_wait)
        return _decisions(tenant_id, group, await self._redis.run(self._script, call.keys, call.args))


def _in_place(decided: list[AdmissionDecision], place: int) -> AdmissionDecision | None:
    return decided[place] if place < len(decided) else None


def _decisions(tenant_id: TenantId, group: _Group, reply: Reply) -> list[AdmissionDecision]:
    """Return the decisions on those that were admitted, in their order."""
    admitted = int(reply[0] or 0)
    if not admitted:
        return []
    first, period = group.requests[0], group.wording.period
    rates, quotas = first.rates, first.quotas
    numbers = wire.read_numbers(reply)
    owed, counted = numbers[1 : 1 + len(rates)], [int(number) for number in numbers[1 + len(rates) :]]
    counts = list(zip(quotas, counted[::2], counted[1::2], strict=True))
    before = _Before(rates, owed, counts, period_end_s(period))
    decided: list[AdmissionDecision] = []
    spent, row_at = 0, 2
    for request in group.requests[:admitted]:
        spent += request.cost
        rows = reply[row_at : row_at + len(request.cache_keys)]
        row_at += len(rows)
        environment, cost = request.environment, request.cost
        lease = Lease(request.lease_id, tenant_id, request.credential_id, environment, period, cost, quotas, None)
        standing = _StandingAfter(before, spent)
        decided.append(AdmissionDecision(Verdict.ADMITTED, standing, None, wire.as_rows(rows), lease))
    return decided
