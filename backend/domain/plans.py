"""Plans: what a tenant has bought. A plan version never changes once it is used; a change is a new version."""

from dataclasses import dataclass
from enum import StrEnum


class QuotaMode(StrEnum):
    """What happens at the monthly cap."""

    HARD = "hard"
    """Further rows are refused until the next month."""
    SOFT = "soft"
    """Further rows are served and are overage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One immutable version of a plan. Limits are in rows; ``monthly_quota`` ``None`` is no cap."""

    id: str
    name: str
    version: int
    rate_per_minute: int
    monthly_quota: int | None
    quota_mode: QuotaMode
    bills_cache_hits: bool
    max_api_keys: int


def seed_plans() -> tuple[Plan, ...]:
    """Return the plans every installation begins with. Ids are fixed, so that seeding twice changes nothing."""
    return (
        Plan(
            id="pln_00000000000000000000000001",
            name="free",
            version=1,
            rate_per_minute=60,
            monthly_quota=1_000,
            quota_mode=QuotaMode.HARD,
            bills_cache_hits=False,
            max_api_keys=10,
        ),
        Plan(
            id="pln_00000000000000000000000002",
            name="pro",
            version=1,
            rate_per_minute=6_000,
            monthly_quota=1_000_000,
            quota_mode=QuotaMode.SOFT,
            bills_cache_hits=False,
            max_api_keys=100,
        ),
        Plan(
            id="pln_00000000000000000000000003",
            name="enterprise",
            version=1,
            rate_per_minute=600_000,
            monthly_quota=None,
            quota_mode=QuotaMode.HARD,
            bills_cache_hits=False,
            max_api_keys=100_000,
        ),
    )
