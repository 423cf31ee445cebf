"""What is billable is decided when a request is answered, and an event's content cannot change unseen."""

from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.plans import Plan, QuotaMode
from backend.domain.usage import BillingReason, LedgerPosition, UsageEvent, decide_billing

PLAN = Plan(
    id="pln_1",
    name="plan",
    version=1,
    rate_per_minute=600,
    monthly_quota=None,
    quota_mode=QuotaMode.HARD,
    bills_cache_hits=False,
    max_api_keys=10,
)
HIT_BILLING_PLAN = replace(PLAN, bills_cache_hits=True)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT = UsageEvent(
    id="evt_1",
    tenant_id=TenantId("ten_1"),
    credential_id="key_1",
    environment=Environment.LIVE,
    model="iris",
    model_version="2",
    units=10,
    cached_units=4,
    billable_units=6,
    reason=BillingReason.LIVE,
    plan_id="pln_1",
    plan_version=1,
    request_id="req_1",
    occurred_at=NOON,
    period="2026-03",
)
OTHER_VALUES: dict[str, Any] = {
    "id": "evt_2",
    "tenant_id": TenantId("ten_2"),
    "credential_id": "key_2",
    "environment": Environment.TEST,
    "model": "wine",
    "model_version": "3",
    "units": 11,
    "cached_units": 5,
    "billable_units": 7,
    "reason": BillingReason.CACHE_HIT,
    "plan_id": "pln_2",
    "plan_version": 2,
    "request_id": "req_2",
    "occurred_at": NOON + timedelta(microseconds=1),
    "period": "2026-04",
}

units_and_cached = st.integers(1, 10_000).flatmap(lambda units: st.tuples(st.just(units), st.integers(0, units)))


@pytest.mark.parametrize(
    ("environment", "cached_units", "plan", "billed"),
    [
        pytest.param(Environment.LIVE, 0, PLAN, (10, BillingReason.LIVE), id="nothing-cached"),
        pytest.param(Environment.LIVE, 4, PLAN, (6, BillingReason.LIVE), id="mixed"),
        pytest.param(Environment.LIVE, 10, PLAN, (0, BillingReason.CACHE_HIT), id="all-cached"),
        pytest.param(Environment.LIVE, 0, HIT_BILLING_PLAN, (10, BillingReason.LIVE), id="hits-billed-none"),
        pytest.param(Environment.LIVE, 4, HIT_BILLING_PLAN, (10, BillingReason.LIVE), id="hits-billed-mixed"),
        pytest.param(Environment.LIVE, 10, HIT_BILLING_PLAN, (10, BillingReason.LIVE), id="hits-billed-all"),
        pytest.param(Environment.TEST, 0, PLAN, (0, BillingReason.TEST_KEY), id="test-key"),
        pytest.param(Environment.TEST, 10, PLAN, (0, BillingReason.TEST_KEY), id="test-key-all-cached"),
        pytest.param(Environment.TEST, 0, HIT_BILLING_PLAN, (0, BillingReason.TEST_KEY), id="test-key-hits-billed"),
    ],
)
def test_ten_rows_are_billed_as_the_plan_says(
    environment: Environment, cached_units: int, plan: Plan, billed: tuple[int, BillingReason]
) -> None:
    assert decide_billing(environment=environment, units=10, cached_units=cached_units, plan=plan) == billed


@given(
    counts=units_and_cached,
    environment=st.sampled_from(Environment),
    plan=st.sampled_from([PLAN, HIT_BILLING_PLAN]),
)
def test_never_more_is_billed_than_was_answered_and_only_a_live_reason_costs(
    counts: tuple[int, int], environment: Environment, plan: Plan
) -> None:
    units, cached_units = counts
    billable, reason = decide_billing(environment=environment, units=units, cached_units=cached_units, plan=plan)
    assert 0 <= billable <= units
    assert (billable > 0) is (reason is BillingReason.LIVE)


def test_reasons_are_spelt_as_in_the_ledger_rules() -> None:
    assert {reason.value for reason in BillingReason} == {"live", "test-key", "cache-hit", "replay"}


def test_the_same_content_has_the_same_fingerprint() -> None:
    assert EVENT.fingerprint() == replace(EVENT).fingerprint()
    assert len(EVENT.fingerprint()) == 32


def test_a_fingerprint_is_worked_out_once_and_is_no_part_of_the_event() -> None:
    fresh = replace(EVENT)
    printed = fresh.fingerprint()
    assert fresh.fingerprint() is printed
    assert fresh == replace(EVENT)
    assert asdict(fresh) == {field.name: getattr(EVENT, field.name) for field in fields(UsageEvent)}


@pytest.mark.parametrize("name", [field.name for field in fields(UsageEvent)])
def test_a_change_of_any_field_changes_the_fingerprint(name: str) -> None:
    changed = replace(EVENT, **{name: OTHER_VALUES[name]})
    assert changed.fingerprint() != EVENT.fingerprint()


def test_values_cannot_move_from_one_field_to_the_next_unseen() -> None:
    left = replace(EVENT, model="a", model_version="bc")
    right = replace(EVENT, model="ab", model_version="c")
    assert left.fingerprint() != right.fingerprint()


def test_positions_sort_by_transaction_and_then_by_row_as_numbers() -> None:
    written = ["0.0", "2.10", "10.1", "10.2", "10.10"]
    assert [str(position) for position in sorted(map(LedgerPosition.parse, reversed(written)))] == written


@pytest.mark.parametrize("text", ["", "1", "1.2.3", "a.b", "1.", ".1"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|unpack"):
        LedgerPosition.parse(text)
