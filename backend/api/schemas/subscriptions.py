"""Which plan a tenant is on, on the wire."""

from pydantic import Field

from backend.api.schemas.common import In, Instant, InstantIn, Out
from backend.api.schemas.plans import PlanOut, PlanText
from backend.domain.subscriptions import Standing, Subscription


class SubscriptionIn(In):
    """What a tenant is to be on, and from when."""

    plan: PlanText = Field(
        description="A plan's name for its newest version, `name@version`, or a version's id.", examples=["pro"]
    )
    starts_at: InstantIn | None = Field(None, description="Now, if left out; never in the past.")


class SubscriptionOut(Out):
    """A tenant on a plan."""

    id: str
    plan: PlanOut
    started_at: Instant
    ended_at: Instant | None

    @classmethod
    def of(cls, subscription: Subscription) -> "SubscriptionOut":
        """Return a subscription's wire form."""
        return cls(
            id=subscription.id,
            plan=PlanOut.of(subscription.plan),
            started_at=subscription.started_at,
            ended_at=subscription.ended_at,
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
