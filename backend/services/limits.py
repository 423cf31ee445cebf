"""Limits, as those who live under them may look them up."""

from dataclasses import dataclass

from backend.domain.admission import Standing
from backend.domain.api_keys import Environment
from backend.domain.callers import PredictCaller
from backend.domain.plans import Plan
from backend.services.ports import Admission


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsReport:
    """The plan, and where the caller stands with it in one environment."""

    plan: Plan
    environment: Environment
    standing: Standing


class LimitsService:
    """Reads limits, spending nothing."""

    def __init__(self, *, admission: Admission) -> None:
        self._admission = admission

    async def report(self, caller: PredictCaller) -> LimitsReport:
        """Return every limit that applies to the caller's predictions, and what is left of each.

        Raises:
            EnforcementUnavailable: the limits' store does not answer.
        """
        standing = await self._admission.standing(caller.tenant_id, caller.environment, caller.rates, caller.quotas)
        return LimitsReport(plan=caller.plan, environment=caller.environment, standing=standing)
