"""A creating request that is sent twice is carried out once: its answer is kept, sealed, beside what it created.

Everything happens in the request's own unit of work. When that is committed, both are there, the resource and the
answer; when it is not, neither is, and the next attempt begins anew. Refusals are not kept: they changed nothing.
"""

from datetime import timedelta

from backend.domain.admission import IdempotencyClaim, StoredAnswer
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.clock import Clock
from backend.domain.errors import IdempotencyKeyReused
from backend.services.ports import Sealer, UnitOfWork
from backend.services.ports.store import StoredRepetition

KEPT_FOR = timedelta(hours=24)


class IdempotencyService:
    """What a credential's Idempotency-Keys were answered."""

    def __init__(self, *, unit: UnitOfWork, sealer: Sealer, clock: Clock) -> None:
        self._unit = unit
        self._sealer = sealer
        self._clock = clock

    async def recall(self, caller: Caller | PlatformCaller, claim: IdempotencyClaim) -> StoredAnswer | None:
        """Return the answer that the same request was given; ``None`` when this is the first.

        Raises:
            IdempotencyKeyReused: the key was used with another request.
            IdempotencyInProgress: the first request is still running.
        """
        found = await self._unit.idempotency.hold(caller.chain, caller.credential_id, claim.key)
        if found is None or found.expires_at <= self._clock.now():
            return None
        if found.fingerprint != claim.fingerprint:
            raise IdempotencyKeyReused
        body = self._sealer.unseal(found.sealed_body, _name(caller, claim))
        return StoredAnswer(status=found.status, body=body, headers=found.headers)

    async def keep(self, caller: Caller | PlatformCaller, claim: IdempotencyClaim, answer: StoredAnswer) -> None:
        """Keep an answer for a day; it stands or falls with the unit of work."""
        now = self._clock.now()
        record = StoredRepetition(
            credential_id=caller.credential_id,
            key=claim.key,
            fingerprint=claim.fingerprint,
            status=answer.status,
            headers=answer.headers,
            sealed_body=self._sealer.seal(answer.body, _name(caller, claim)),
            created_at=now,
            expires_at=now + KEPT_FOR,
        )
        await self._unit.idempotency.keep(caller.chain, record)


def _name(caller: Caller | PlatformCaller, claim: IdempotencyClaim) -> str:
    """Return what a sealed answer is bound to: moved to another row, it does not open."""
    return f"{caller.chain}/{caller.credential_id}/{claim.key}"
