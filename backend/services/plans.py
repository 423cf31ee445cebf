"""Plans, as the operator sells them. A version is never changed: whoever is on it stays on what was agreed."""

from dataclasses import dataclass

from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import new_id
from backend.domain.plans import Plan, PlanTerms, audit_view
from backend.domain.pricing import problems_of
from backend.services.plan_choice import seed
from backend.services.ports import CursorCodec, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPage:
    """Plan versions, newest first."""

    plans: tuple[Plan, ...]
    next_cursor: str | None


class PlanService:
    """What the operator may do with plans."""

    def __init__(self, *, unit: UnitOfWork, cursors: CursorCodec) -> None:
        self._unit = unit
        self._cursors = cursors

    async def create(self, actor: Actor, name: str, terms: PlanTerms) -> Plan:
        """Store the next version of a plan, or the first of a new one. Tenants stay on the version they are on.

        Raises:
            AlreadyExists: somebody else stored that version at the same time.
            Invalid: the prices do not fit together, or a model's limit is above the plan's.
        """
        if problems := (*problems_of(terms.pricing), *_problems_of_models(terms)):
            raise Invalid(errors=problems)
        await seed(self._unit.plans)
        newest = await self._unit.plans.newest(name)
        version = 1 if newest is None else newest.version + 1
        plan = Plan.of_terms(terms, id=new_id("pln"), name=name, version=version)
        await self._unit.plans.add(plan)
        entry = AuditEntry(
            actor=actor,
            action=Action.PLAN_CREATED,
            target_id=plan.id,
            before=audit_view(newest) if newest else {},
            after=audit_view(plan),
        )
        await self._unit.audit.record(PLATFORM_CHAIN, entry)
        return plan

    async def get(self, plan_id: str) -> Plan:
        """Return one plan version.

        Raises:
            NotFound: no plan version has this id.
        """
        plan = await self._unit.plans.get(plan_id)
        if plan is None:
            raise NotFound
        return plan

    async def list(self, name: str | None, *, cursor: str | None, limit: int) -> PlanPage:
        """Return a page of plan versions, of one plan or of all."""
        await seed(self._unit.plans)
        purpose = f"plans:{name}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.plans.list(name, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        return PlanPage(plans=tuple(found[:limit]), next_cursor=next_cursor)


def _problems_of_models(terms: PlanTerms) -> tuple[FieldError, ...]:
    above = f"is above the plan's {terms.rate_per_minute}"
    return tuple(
        [
            FieldError(f"/models/{name}/per_minute", above)
            for name, per_minute in terms.model_rates
            if per_minute > terms.rate_per_minute
        ]
    )
