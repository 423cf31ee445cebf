"""How a quota's counter begins: with what the ledger holds. Knows no technology; every admission adapter uses it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from backend.adapters.single_flight import SingleFlight
from backend.domain.api_keys import Environment
from backend.domain.errors import EnforcementUnavailable, Unavailable
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule
from backend.services.ports import QuotaHistory


@dataclass(frozen=True, slots=True)
class Books:
    """Which counters are meant: one tenant's, live or test, of one month."""

    tenant_id: TenantId
    environment: Environment
    period: str


Begin = Callable[[QuotaRule, str, int], Awaitable[None]]
"""Begins the counter of a rule, under the token given for it, with the units used so far."""


class QuotaRebuild:
    """Asks the ledger once for each missing counter, however many requests wait for it.

    The counter begins in the very task that read the ledger, not in whichever waiter wakes up first: a waiter could
    come late, with a sum from before somebody else's use.
    """

    def __init__(self, history: QuotaHistory) -> None:
        self._history = history
        self._reads = SingleFlight()

    async def run(
        self, books: Books, missing: Mapping[QuotaRule, str], begin: Begin, *, enforces: bool
    ) -> frozenset[QuotaRule]:
        """Begin the counters of the missing rules, each with its token; return the rules that cannot be counted.

        When the ledger cannot be read, a cap that must hold refuses everything, where it is enforced. Any other
        goes uncounted for this request: the ledger will know.

        Raises:
            EnforcementUnavailable: the ledger cannot be read and a cap must hold.
        """
        uncountable = set()
        for rule, token in missing.items():
            name = (books, rule.scope, rule.subject, token)
            try:
                await self._reads.run(name, partial(self._begin, books, rule, token, begin))
            except Unavailable as error:
                if enforces and rule.must_hold:
                    raise EnforcementUnavailable(retry_after_s=1) from error
                uncountable.add(rule)
        return frozenset(uncountable)

    async def _begin(self, books: Books, rule: QuotaRule, token: str, begin: Begin) -> None:
        credential_id = rule.subject if rule.scope == "key" else None
        used = await self._history.units_in_period(books.tenant_id, books.environment, books.period, credential_id)
        await begin(rule, token, used)
