"""The vocabulary of admission: what is asked once before a model runs, and what is said once afterwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement, QuotaRule, QuotaState, RateRule, RateState
from backend.domain.records import record


class Verdict(StrEnum):
    """What admission decided."""

    ADMITTED = "admitted"
    STALE = "stale"
    """The credential changed since it was cached: read it again and ask again."""
    RATE_LIMITED = "rate-limited"
    QUOTA_EXCEEDED = "quota-exceeded"
    REPLAY = "replay"
    IDEMPOTENCY_REUSED = "idempotency-reused"
    IDEMPOTENCY_IN_PROGRESS = "idempotency-in-progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epochs:
    """The versions at which a cached credential was read from the store.

    Admission knows the newest version that was announced. An older or an unknown one makes the verdict ``STALE``;
    with ``fresh`` the versions were read just now and become the announced ones, never backwards.
    """

    tenant: int
    credential: int
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyClaim:
    """An ``Idempotency-Key``; ``fingerprint`` is a digest of the whole request."""

    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """An answer kept for replay. ``headers`` are those that belong to the answer, not to the limits."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@record(frozen=True, slots=True)
class AdmissionRequest:
    """Everything that one request asks of limits, quota, idempotency and cache, in one message.

    ``lease_id`` names the quota lease and must be unique. ``cost`` is in rows. ``cache_keys`` holds one digest a row
    and is empty when the caller asked not to read the cache. ``others_follow`` while more of them may be asked in the
    same turn of the event loop, so that it may pay to wait for them. ``meanwhile`` is work that can be done while there
    is nothing to do but to wait for the decision; it is called once at the most.
    """

    lease_id: str
    credential_id: str
    environment: Environment
    epochs: Epochs
    cost: int
    rates: tuple[RateRule, ...]
    quotas: tuple[QuotaRule, ...]
    idempotency: IdempotencyClaim | None = None
    cache_keys: tuple[bytes, ...] = ()
    enforcement: Enforcement = Enforcement.ENFORCE
    others_follow: bool = True
    meanwhile: Callable[[], object] | None = None

    @property
    def enforces(self) -> bool:
        """Whether limits and quotas may refuse it."""
        return self.enforcement is Enforcement.ENFORCE

    @property
    def needs_counters(self) -> bool:
        """Whether it must be refused while nobody can say what is left of a quota."""
        return self.enforces and any(rule.must_hold for rule in self.quotas)


@record(frozen=True, slots=True)
class Standing:
    """Where a credential stands with its limits: what the answer's headers say."""

    rates: tuple[RateState, ...] = ()
    quotas: tuple[QuotaState, ...] = ()


@record(frozen=True, slots=True)
class AdmissionDecision:
    """The answer to an :class:`AdmissionRequest`.

    ``cached`` has one entry for each of the request's ``cache_keys``: the stored row, or ``None``. ``lease`` is set
    only when admitted and must be settled or released exactly once; it expires by itself. ``overrun`` is what a request
    admitted in shadow would have been refused with.
    """

    verdict: Verdict
    standing: Standing = field(default_factory=Standing)
    retry_after_s: int | None = None
    cached: tuple[bytes | None, ...] = ()
    lease: "Lease | None" = None
    replay: StoredAnswer | None = None
    overrun: Verdict | None = None


@record(frozen=True, slots=True)
class Lease:
    """Rows reserved of one or more quotas, and the idempotency slot held, until settled or released."""

    id: str
    tenant_id: TenantId
    credential_id: str
    environment: Environment
    period: str
    cost: int
    quotas: tuple[QuotaRule, ...]
    idempotency: IdempotencyClaim | None


@record(frozen=True, slots=True)
class Settlement:
    """What to do once the usage event is durable: turn the lease into use, fill the cache, keep the answer."""

    lease: Lease
    cache_fill: tuple[tuple[bytes, bytes], ...] = ()
    answer: StoredAnswer | None = None
