"""How many settlements one call to Redis carries: nobody else's call can overtake it."""

import pytest

from backend.adapters.redis.settling import MOST_LEASES, MOST_ROWS, settle_all_calls
from backend.adapters.redis.wire import Call, Keeping
from backend.adapters.redis.wordings import Wordings
from backend.domain.admission import Lease, Settlement
from backend.domain.api_keys import Environment
from tests.contracts.asking import TENANT, key_quota, tenant_quota

KEEPING = Keeping.of(answer_ttl_s=1.0, row_ttl_s=1.0, row_limit_bytes=100)
BOTH = (tenant_quota(9), key_quota(9))


def settlement(number: int, rows: int) -> Settlement:
    lease = Lease(
        id=f"evt_{number}",
        tenant_id=TENANT,
        credential_id="key_a",
        environment=Environment.LIVE,
        period="2026-04",
        cost=3,
        quotas=BOTH,
        idempotency=None,
    )
    return Settlement(lease=lease, cache_fill=tuple([(b"%d-%d" % (number, row), b"1") for row in range(rows)]))


def calls_for(*rows: int) -> list[Call]:
    return list(settle_all_calls(TENANT, [settlement(*each) for each in enumerate(rows)], Wordings(), KEEPING))


def leases_in(call: Call) -> list[object]:
    return [arg for arg in call.args if isinstance(arg, str) and arg.startswith("3:evt_")]


@pytest.mark.parametrize(
    ("rows", "leases"),
    [
        pytest.param([0] * MOST_LEASES, [MOST_LEASES], id="as many as one call carries"),
        pytest.param([1] * (2 * MOST_LEASES + 1), [MOST_LEASES, MOST_LEASES, 1], id="more than that"),
        pytest.param([MOST_ROWS - 1, 1, 1], [2, 1], id="rows"),
        pytest.param([1, 3 * MOST_ROWS, 1], [1, 1, 1], id="more rows than a call should have"),
        pytest.param([0, 0, 3 * MOST_ROWS], [3], id="after those without any"),
    ],
)
def test_a_call_is_bounded_and_each_lease_is_in_one(rows: list[int], leases: list[int]) -> None:
    calls = calls_for(*rows)
    assert [len(leases_in(call)) for call in calls] == leases
    assert [lease for call in calls for lease in leases_in(call)] == [f"3:evt_{number}" for number in range(len(rows))]
    assert sum(len(call.keys) - len(BOTH) for call in calls) == sum(rows)


def test_a_lease_that_is_named_twice_is_sent_once() -> None:
    twice = [settlement(1, 0), settlement(2, 0), settlement(1, 0)]
    [call] = settle_all_calls(TENANT, twice, Wordings(), KEEPING)
    assert leases_in(call) == ["3:evt_1", "3:evt_2"]


def test_without_quotas_and_rows_nothing_is_sent() -> None:
    assert calls_for() == []
