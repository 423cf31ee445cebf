"""What all requests of one credential say in the same words, worked out once.

A request names up to a dozen keys and as many numbers; all but its lease, its rows and its Idempotency-Key are those of
the request before. They are kept by credential, and worked out again as soon as anything in them is another.
"""

from dataclasses import dataclass

from backend.adapters.redis import keys
from backend.domain.admission import AdmissionRequest, Lease
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, RateRule

MOST_KNOWN = 10_000
"""Credentials. Beyond it all are forgotten: they come back with their next requests."""


@dataclass(slots=True)
class Wording:
    """The keys of a credential's epochs and levels, and of its counters; the packed numbers of the last request."""

    tenant_id: TenantId
    environment: Environment
    period: str
    rates: tuple[RateRule, ...]
    quotas: tuple[QuotaRule, ...]
    heads: tuple[str, ...]
    counters: tuple[str, ...]
    said: tuple[object, ...] = ()
    numbers: bytes = b""

    def fits(self, tenant_id: TenantId, request: AdmissionRequest, period: str) -> bool:
        """Whether a request has the same limits, as the same objects: a cached grant hands out its own."""
        return (
            self.rates is request.rates
            and self.quotas is request.quotas
            and self.period == period
            and self.environment is request.environment
            and self.tenant_id == tenant_id
        )


class Wordings:
    """Implements nothing: a memory of :class:`RedisAdmission`."""

    def __init__(self) -> None:
        self._known: dict[str, Wording] = {}

    def counters_of(self, lease: Lease) -> tuple[str, ...]:
        """Return the keys of a lease's counters."""
        known = self._known.get(lease.credential_id)
        if (
            known is not None
            and known.quotas is lease.quotas
            and known.period == lease.period
            and known.environment is lease.environment
            and known.tenant_id == lease.tenant_id
        ):
            return known.counters
        return tuple(limit_keys(lease.tenant_id, lease.environment, lease.period, (), lease.quotas))

    def of(self, tenant_id: TenantId, request: AdmissionRequest, period: str) -> Wording:
        """Return what is known of the request's credential."""
        known = self._known.get(request.credential_id)
        if known is not None and known.fits(tenant_id, request, period):
            return known
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        levels = [keys.rate_level(tenant_id, rule) for rule in request.rates]
        counters = limit_keys(tenant_id, request.environment, period, (), request.quotas)
        wording = self._known[request.credential_id] = Wording(
            tenant_id=tenant_id,
            environment=request.environment,
            period=period,
            rates=request.rates,
            quotas=request.quotas,
            heads=(keys.tenant_epoch(tenant_id), keys.credential_epoch(tenant_id, request.credential_id), *levels),
            counters=tuple(counters),
        )
        return wording


def limit_keys(
    tenant_id: TenantId,
    environment: Environment,
    period: str,
    rates: tuple[RateRule, ...],
    quotas: tuple[QuotaRule, ...],
) -> list[str]:
    """Return the keys of some limits: levels, then counters."""
    touched = [keys.rate_level(tenant_id, rule) for rule in rates]
    touched += [keys.quota_counter(tenant_id, rule, environment, period) for rule in quotas]
    return touched
