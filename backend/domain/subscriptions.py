"""Subscriptions: which plan a tenant is on, from when to when. They follow each other without a gap."""

from dataclasses import dataclass
from datetime import datetime

from backend.domain.ids import TenantId
from backend.domain.limits import Enforcement
from backend.domain.plans import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A tenant on a plan from ``started_at`` on and before ``ended_at``; ``None`` is until further notice."""

    id: str
    tenant_id: TenantId
    plan: Plan
    started_at: datetime
    ended_at: datetime | None
    enforcement: Enforcement = Enforcement.ENFORCE

    def holds_at(self, instant: datetime) -> bool:
        """Whether the tenant is on it at that instant."""
        return self.started_at <= instant and (self.ended_at is None or instant < self.ended_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a tenant is on, and what it will be on after that, where that is decided."""

    current: Subscription | None
    following: Subscription | None
