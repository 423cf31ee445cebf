"""Idempotency slots in memory: which requests are running, and what the finished ones answered."""

from collections import OrderedDict
from dataclasses import dataclass

from backend.adapters.memory.bounded_map import BoundedMap
from backend.domain.admission import IdempotencyClaim, Lease, StoredAnswer, Verdict
from backend.domain.ids import TenantId

SlotName = tuple[str, str, str]

LATE_S = 3600.0
"""How long a slot whose lease expired still takes its own late answer, unless somebody else claims it."""

OVERHEAD_BYTES = 500
"""What a kept answer weighs beyond its text: keys, tuples, the entry itself."""


@dataclass(frozen=True, slots=True)
class _Running:
    fingerprint: bytes
    lease_id: str
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class _Kept:
    fingerprint: bytes
    answer: StoredAnswer


class IdempotencySlots:
    """Answers are kept for ``ttl_s`` within ``limit_bytes``; running slots are as many as requests are running."""

    def __init__(self, *, ttl_s: float, limit_bytes: int) -> None:
        self._ttl_s = ttl_s
        self._running: OrderedDict[SlotName, _Running] = OrderedDict()
        self._kept: BoundedMap[SlotName, _Kept] = BoundedMap(limit_bytes)

    def ask(self, name: SlotName, claim: IdempotencyClaim, now_s: float) -> tuple[Verdict, StoredAnswer | None] | None:
        """Return why the request must not run, and what to replay; ``None`` when the slot is free."""
        kept = self._kept.get(name, now_s)
        if kept is not None:
            if kept.fingerprint != claim.fingerprint:
                return Verdict.IDEMPOTENCY_REUSED, None
            return Verdict.REPLAY, kept.answer
        running = self._running.get(name)
        if running is None or running.expires_at_s <= now_s:
            return None
        if running.fingerprint != claim.fingerprint:
            return Verdict.IDEMPOTENCY_REUSED, None
        return Verdict.IDEMPOTENCY_IN_PROGRESS, None

    def hold(
        self, name: SlotName, claim: IdempotencyClaim, lease_id: str, *, now_s: float, expires_at_s: float
    ) -> None:
        """Take a free slot for a request that is about to run."""
        while self._running and next(iter(self._running.values())).expires_at_s + LATE_S <= now_s:
            self._running.popitem(last=False)
        self._running.pop(name, None)
        self._running[name] = _Running(claim.fingerprint, lease_id, expires_at_s)

    def finish(self, name: SlotName, lease_id: str, answer: StoredAnswer | None, now_s: float) -> None:
        """Keep the answer, or free the slot without one; nothing when the slot is no longer this lease's."""
        running = self._running.get(name)
        if running is None or running.lease_id != lease_id:
            return
        del self._running[name]
        if answer is not None:
            self._kept.put(
                name,
                _Kept(running.fingerprint, answer),
                weight=_weight(name, answer),
                expires_at_s=now_s + self._ttl_s,
            )


def slot_name(tenant_id: TenantId, credential_id: str, claim: IdempotencyClaim) -> SlotName:
    """Return the slot of a claim: another credential's key of the same name is another slot."""
    return (tenant_id, credential_id, claim.key)


def slot_of(tenant_id: TenantId, lease: Lease) -> SlotName | None:
    """Return the slot that a lease holds, if any."""
    return None if lease.idempotency is None else slot_name(tenant_id, lease.credential_id, lease.idempotency)


def _weight(name: SlotName, answer: StoredAnswer) -> int:
    headers = sum([len(key) + len(value) for key, value in answer.headers])
    return OVERHEAD_BYTES + sum(map(len, name)) + len(answer.body) + headers
