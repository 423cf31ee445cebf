"""``forecourt tenants``: customers."""

from typing import Annotated

import typer

from backend.cli.console import JsonOption, opened, run, show, tenant_service
from backend.domain.audit import OPERATOR
from backend.domain.errors import NotFound
from backend.domain.limits import Enforcement
from backend.domain.subscriptions import Subscription
from backend.domain.tenants import Tenant, TenantStatus
from backend.domain.usage_pushes import BillerCustomer
from backend.services.subscriptions import SubscriptionService
from backend.settings import Settings

app = typer.Typer(help="Create, list, suspend and resume tenants.", no_args_is_help=True)

SUBSCRIPTION_COLUMNS = ("id", "tenant_id", "plan", "enforcement", "started_at")
COLUMNS = ("id", "slug", "name", "status", "created_at")
Slug = Annotated[str, typer.Argument(help="The tenant's short name.")]


def _row(tenant: Tenant) -> dict[str, object]:
    return {
        "id": tenant.id,
        "slug": tenant.slug,
        "name": tenant.name,
        "status": tenant.status.value,
        "created_at": tenant.created_at.isoformat(timespec="seconds"),
    }


@app.command("create")
def create(
    slug: Slug,
    name: Annotated[str, typer.Option(help="Display name; the slug by default.")] = "",
    plan: Annotated[str, typer.Option(help="Plan to start on.")] = "free",
    as_json: JsonOption = False,
) -> None:
    """Create a tenant on a plan."""

    async def work(settings: Settings) -> Tenant:
        async with opened(settings) as shared, tenant_service(shared) as (tenants, _):
            await tenants.seed_plans()
            return await tenants.create(slug=slug, name=name or slug, plan=plan)

    show([_row(run(work))], COLUMNS, as_json=as_json)


@app.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """List every tenant."""

    async def work(settings: Settings) -> list[Tenant]:
        async with opened(settings) as shared, tenant_service(shared, read_only=True) as (_, unit):
            return await unit.tenants.list_all()

    show([_row(tenant) for tenant in run(work)], COLUMNS, as_json=as_json)


@app.command("subscribe")
def subscribe(
    slug: Slug,
    plan: Annotated[str, typer.Option(help="A plan's name for its newest version, or `name@version`.")],
    enforcement: Annotated[
        Enforcement, typer.Option(help="`shadow`: limits are decided and reported, and refuse nothing.")
    ] = Enforcement.ENFORCE,
    as_json: JsonOption = False,
) -> None:
    """Put a tenant on a plan from now on, with effect on its next request."""

    async def work(settings: Settings) -> Subscription | None:
        async with opened(settings) as shared, shared.database.unit_of_work() as unit:
            tenant = await unit.tenants.by_slug(slug)
            if tenant is None:
                raise NotFound(f"There is no tenant {slug}.")
            service = SubscriptionService(unit=unit, admission=shared.admission, clock=shared.clock)
            return (await service.put(OPERATOR, tenant.id, plan=plan, enforcement=enforcement)).current

    found = run(work)
    show([_subscription_row(found)] if found else [], SUBSCRIPTION_COLUMNS, as_json=as_json)


def _subscription_row(subscription: Subscription) -> dict[str, object]:
    return {
        "id": subscription.id,
        "tenant_id": subscription.tenant_id,
        "plan": f"{subscription.plan.name}@{subscription.plan.version}",
        "enforcement": subscription.enforcement.value,
        "started_at": subscription.started_at.isoformat(timespec="seconds"),
    }


@app.command("suspend")
def suspend(slug: Slug, as_json: JsonOption = False) -> None:
    """Refuse a tenant's credentials from the next request on."""
    _set_status(slug, TenantStatus.SUSPENDED, as_json=as_json)


@app.command("resume")
def resume(slug: Slug, as_json: JsonOption = False) -> None:
    """Accept a suspended tenant's credentials again."""
    _set_status(slug, TenantStatus.ACTIVE, as_json=as_json)


@app.command("biller-customer")
def set_biller_customer(
    slug: Slug,
    customer_id: Annotated[str, typer.Argument(help="The id there, such as cus_…; empty ends the pushes.")],
    as_json: JsonOption = False,
) -> None:
    """Set under which id the outside biller knows a tenant."""

    async def work(settings: Settings) -> BillerCustomer | None:
        async with opened(settings) as shared, tenant_service(shared) as (tenants, _):
            return await tenants.set_biller_customer(slug, customer_id or None)

    found = run(work)
    row: dict[str, object] = {"tenant": slug, "customer_id": found.customer_id if found else None}
    show([row], ("tenant", "customer_id"), as_json=as_json)


def _set_status(slug: str, status: TenantStatus, *, as_json: bool) -> None:
    async def work(settings: Settings) -> Tenant:
        async with opened(settings) as shared, tenant_service(shared) as (tenants, _):
            return await tenants.set_status(slug, status)

    show([_row(run(work))], COLUMNS, as_json=as_json)
