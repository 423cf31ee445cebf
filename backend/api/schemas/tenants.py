"""Tenants, as the operator sees them, on the wire."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.api.schemas.common import In, Instant, Out
from backend.api.schemas.members import DisplayName
from backend.api.schemas.plans import PlanText
from backend.domain.tenants import Tenant, TenantStatus
from backend.domain.usage_pushes import BillerCustomer

Slug = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class NewTenantIn(In):
    """A tenant to be."""

    slug: Slug = Field(description="Its short name, which never changes.", examples=["acme"])
    name: DisplayName | None = Field(None, description="The slug, if left out.", examples=["Acme Inc."])
    plan: PlanText = Field("free", description="What it starts on.", examples=["pro"])


class CustomerOut(Out):
    """A tenant, as the operator sees it."""

    id: str
    slug: str
    name: str
    status: TenantStatus
    created_at: Instant

    @classmethod
    def of(cls, tenant: Tenant) -> "CustomerOut":
        """Return a tenant's wire form."""
        return cls(id=tenant.id, slug=tenant.slug, name=tenant.name, status=tenant.status, created_at=tenant.created_at)


class BillerCustomerIn(In):
    """Under which id the outside biller knows a tenant."""

    customer_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        description="Such as Stripe's `cus_…`; `null` takes it away.", examples=["cus_NciAYcXfLnqBoz"]
    )


class BillerCustomerOut(Out):
    """Under which id the outside biller knows a tenant."""

    customer_id: str | None

    @classmethod
    def of(cls, customer: BillerCustomer | None) -> "BillerCustomerOut":
        """Return its wire form."""
        return cls(customer_id=customer.customer_id if customer else None)
