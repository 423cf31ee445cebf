"""Which plan a tenant is on, on the wire."""

from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import In, Instant, InstantIn, Out
from backend.api.schemas.plans import PlanOut, PlanText
from backend.domain.limits import Enforcement
from backend.domain.subscriptions import Standing, Subscription


class SubscriptionIn(In):
    """What a tenant is to be on, and from when."""

    plan: PlanText = Field(
        description="A plan's name for its newest version, `name@version`, or a version's id.", examples=["pro"]
    )
    starts_at: InstantIn | None = Field(None, description="Now, if left out; never in the past.")
    enforcement: Annotated[Enforcement, Field(strict=False)] = Field(
        Enforcement.ENFORCE,
        description="`shadow`: limits are decided, told in headers and counted, and refuse nothing.",
    )


class SubscriptionOut(Out):
    """A tenant on a plan."""

    id: str
    plan: PlanOut
    started_at: Instant
    ended_at: Instant | None
    enforcement: Enforcement

    @classmethod
    def of(cls, subscription: Subscription) -> "SubscriptionOut":
        """Return a subscription's wire form."""
        return cls(
            id=subscription.id,
            plan=PlanOut.of(subscription.plan),
            started_at=subscription.started_at,
            ended_at=subscription.ended_at,
            enforcement=subscription.enforcement,
        )


class StandingOut(Out):
    """What a tenant is on now, and what follows where that is decided."""

    tenant_id: str
    current: SubscriptionOut | None
    following: SubscriptionOut | None

    @classmethod
    def of(cls, tenant_id: str, standing: Standing) -> "StandingOut":
        """Return a tenant's standing in its wire form."""
        return cls(
            tenant_id=tenant_id,
            current=SubscriptionOut.of(standing.current) if standing.current else None,
            following=SubscriptionOut.of(standing.following) if standing.following else None,
        )
