"""What every installation sells from its first day."""

from dataclasses import FrozenInstanceError

import pytest

from backend.domain.plans import Plan, QuotaMode, seed_plans


def test_the_seed_plans_are_exactly_these() -> None:
    assert [(plan.name, plan.rate_per_minute, plan.monthly_quota, plan.quota_mode) for plan in seed_plans()] == [
        ("free", 60, 1_000, QuotaMode.HARD),
        ("pro", 6_000, 1_000_000, QuotaMode.SOFT),
        ("enterprise", 600_000, None, QuotaMode.HARD),
    ]


def test_no_seed_plan_bills_cache_hits() -> None:
    assert not any(plan.bills_cache_hits for plan in seed_plans())


def test_a_dearer_seed_plan_allows_more_keys() -> None:
    assert [plan.max_api_keys for plan in seed_plans()] == [10, 100, 100_000]


def test_seeding_twice_gives_the_same_plans() -> None:
    assert seed_plans() == seed_plans()


def test_seed_plans_are_first_versions_with_ids_of_their_own() -> None:
    assert [(plan.id, plan.version) for plan in seed_plans()] == [
        ("pln_00000000000000000000000001", 1),
        ("pln_00000000000000000000000002", 1),
        ("pln_00000000000000000000000003", 1),
    ]


@pytest.mark.parametrize("plan", seed_plans(), ids=lambda plan: plan.name)
def test_a_plan_version_cannot_be_changed(plan: Plan) -> None:
    with pytest.raises(FrozenInstanceError):
        plan.rate_per_minute = 1  # type: ignore[misc]  # the point of the test
