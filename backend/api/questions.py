"""Questions that are asked again, byte for byte: what was read in them the last time need not be read again.

Whoever shows one page to many people sends the same rows again and again, and their answers come from the response
cache. What remains of the work is to find out that it is the same question, which a look at its bytes tells as well
as a parser. Only what the cache has answered is kept: a question that nobody repeats costs nothing here.
"""

import asyncio

from backend.domain.ids import TenantId
from backend.domain.predictions import PredictionAnswer, Question, ReplayedAnswer

MOST_QUESTIONS = 1_000
LONGEST_BODY_BYTES = 2_048
FORGOTTEN_EVERY_S = 300.0
"""What callers send stays no longer than that. A question that is still asked is back at once."""


class RepeatedQuestions:
    """Each tenant's own, by the model in the path, if there is one, and by the body."""

    def __init__(self, *, most: int = MOST_QUESTIONS, forgotten_every_s: float = FORGOTTEN_EVERY_S) -> None:
        self._most = most
        self._forgotten_every_s = forgotten_every_s
        self._known: dict[tuple[TenantId, str | None, bytes], Question] = {}

    def find(self, tenant_id: TenantId, model: str | None, body: bytes) -> Question | None:
        """Return what the same bytes were read as."""
        known = self._known
        return known.get((tenant_id, model, body)) if known else None

    def keep(
        self,
        tenant_id: TenantId,
        model: str | None,
        body: bytes,
        question: Question,
        answer: PredictionAnswer | ReplayedAnswer,
    ) -> None:
        """Keep a question, if all of its answer came from the cache."""
        if type(answer) is not PredictionAnswer or answer.event.cached_units < answer.event.units:
            return
        if len(body) > LONGEST_BODY_BYTES:
            return
        if not self._known:
            asyncio.get_running_loop().call_later(self._forgotten_every_s, self._known.clear)
        while len(self._known) >= self._most:
            # The oldest one.
            del self._known[next(iter(self._known))]
        question.is_repeated = True
        self._known[tenant_id, model, body] = question
