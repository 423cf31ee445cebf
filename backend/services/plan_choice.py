"""How a caller names the plan that a tenant is to be on."""

from backend.domain.errors import FieldError, Invalid
from backend.domain.plans import Plan, PlanReference, seed_plans
from backend.services.ports.store import Plans


async def seed(plans: Plans) -> None:
    """Store the plans every installation begins with; those already there stay."""
    for plan in seed_plans():
        if await plans.get(plan.id) is None:
            await plans.add(plan)


async def chosen_plan(plans: Plans, reference: str) -> Plan:
    """Return the plan of a name (its newest version), of ``name@version`` or of an id.

    Raises:
        Invalid: there is none.
    """
    await seed(plans)
    named = PlanReference.parse(reference)
    if named is None:
        plan = await plans.get(reference)
    elif named.version is None:
        plan = await plans.newest(named.name)
    else:
        plan = await plans.version(named.name, named.version)
    if plan is None:
        raise Invalid(errors=(FieldError("/plan", "is not a plan"),))
    return plan
