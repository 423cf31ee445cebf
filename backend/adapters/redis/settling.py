"""Many leases of one tenant, settled by as few calls of ``settle_all.lua`` as its bounds allow."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence

from backend.adapters.redis import keys
from backend.adapters.redis.line import Script
from backend.adapters.redis.scripts import ScriptRunner
from backend.adapters.redis.wire import Call, Keeping, spelt_lease
from backend.adapters.redis.wordings import Wordings
from backend.domain.admission import Settlement
from backend.domain.ids import TenantId

MOST_LEASES = 64
MOST_ROWS = 1000
"""In one call, which nobody else's can overtake. One lease with more rows than that still is one call."""

Alone = Callable[[TenantId, Settlement], Coroutine[object, object, None]]


class SettlingTogether:
    """Settles several leases at once.

    Args:
        alone: settles one that has a slot or an answer.
    """

    def __init__(self, runner: ScriptRunner, wordings: Wordings, keeping: Keeping, *, alone: Alone) -> None:
        self._redis = runner
        self._wordings = wordings
        self._keeping = keeping
        self._alone = alone
        self._script = Script("settle_all")

    async def settle(self, tenant_id: TenantId, settlements: Sequence[Settlement]) -> None:
        """Settle all, whatever becomes of one of them.

        Raises:
            EnforcementUnavailable: Redis did not answer to one call or more.
        """
        plain = [each for each in settlements if each.lease.idempotency is None and each.answer is None]
        calls: list[Coroutine[object, object, object]] = [
            self._redis.run(self._script, call.keys, call.args)
            for call in settle_all_calls(tenant_id, plain, self._wordings, self._keeping)
        ]
        if len(plain) < len(settlements):
            others = [each for each in settlements if not (each.lease.idempotency is None and each.answer is None)]
            calls += [self._alone(tenant_id, each) for each in others]
        if len(calls) == 1:
            await calls[0]
            return
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def settle_all_calls(
    tenant_id: TenantId, settlements: Sequence[Settlement], wordings: Wordings, keeping: Keeping
) -> Iterator[Call]:
    """Return the calls that settle leases without slots and without answers."""
    prefix = keys.cached_row_prefix(tenant_id)
    longest = keeping.row_limit_bytes
    first = 0
    while first < len(settlements):
        # By the keys of their counters; as keys of a dict, none twice.
        leases_of: dict[tuple[str, ...], dict[str, None]] = {}
        row_keys: list[bytes] = []
        rows: list[bytes] = []
        latest: tuple[str, ...] = ()
        leases: dict[str, None] = {}
        for settlement in settlements[first : first + MOST_LEASES]:
            fill = settlement.cache_fill
            if row_keys and len(row_keys) + len(fill) > MOST_ROWS:
                break
            first += 1
            lease = settlement.lease
            if lease.quotas:
                counters = wordings.counters_of(lease)
                if counters is not latest:
                    latest, leases = counters, leases_of.setdefault(counters, {})
                leases[spelt_lease(lease.cost, lease.id)] = None
            for digest, row in fill:
                if len(row) <= longest:
                    row_keys.append(prefix + digest)
                    rows.append(row)
        call = Call([], [keeping.row_ms, len(leases_of)])
        for counters, leases in leases_of.items():
            call.keys.extend(counters)
            call.args.extend((len(counters), len(leases), *leases))
        call.keys.extend(row_keys)
        call.args.extend(rows)
        if call.keys:
            yield call
