"""What a stored key may do: when, from where, and within which limits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.api_keys import ApiKey, Environment, KeyGrant, KeyStatus
from backend.domain.errors import AddressNotAllowed, ForecourtError, KeyExpired, KeyRevoked, TenantSuspended
from backend.domain.ids import KeyId, TenantId
from backend.domain.limits import QuotaRule, RateRule
from backend.domain.networks import address_in
from backend.domain.plans import Plan, QuotaMode
from backend.domain.scopes import DEFAULT_KEY_SCOPES
from backend.domain.tenants import TenantStatus

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(
    id="pln_1",
    name="plan",
    version=1,
    rate_per_minute=600,
    monthly_quota=10_000,
    quota_mode=QuotaMode.SOFT,
    bills_cache_hits=False,
    max_api_keys=10,
)
KEY = ApiKey(
    id=KeyId("key_1"),
    tenant_id=TenantId("ten_1"),
    lookup_id="AbCdEf012345",
    name="a key",
    environment=Environment.LIVE,
    secret_hash=b"hash",
    pepper_version=1,
    last4="7654",
    scopes=DEFAULT_KEY_SCOPES,
    models=None,
    allowed_cidrs=None,
    rate_per_minute=None,
    monthly_quota=None,
    metadata={},
    generation=1,
    version=7,
    created_by="usr_1",
    created_at=NOON,
    expires_at=None,
    revoked_at=None,
    last_used_at=None,
)


def grant_of(key: ApiKey, plan: Plan = PLAN) -> KeyGrant:
    """Assemble the grant of a key of an active tenant."""
    return KeyGrant.assemble(key=key, tenant_status=TenantStatus.ACTIVE, tenant_version=3, plan=plan)


def key_rate(grant: KeyGrant) -> int:
    """Return the rate that the grant gives to the key itself."""
    return next(rule.per_window for rule in grant.rates if rule.scope == "key")


def test_the_prefix_shows_the_id_and_nothing_of_the_secret() -> None:
    assert KEY.prefix == "fc_live_AbCdEf012345"


def test_a_key_without_an_end_stays_active() -> None:
    assert KEY.status_at(datetime.max.replace(tzinfo=UTC)) is KeyStatus.ACTIVE


def test_a_key_is_active_until_the_instant_it_expires() -> None:
    key = replace(KEY, expires_at=NOON)
    assert key.status_at(NOON - timedelta(microseconds=1)) is KeyStatus.ACTIVE
    assert key.status_at(NOON) is KeyStatus.EXPIRED


def test_a_revoked_key_says_so_even_after_it_has_expired() -> None:
    key = replace(KEY, expires_at=NOON, revoked_at=NOON - timedelta(days=1))
    assert key.status_at(NOON + timedelta(days=1)) is KeyStatus.REVOKED


# Who may use it now, and from where


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("2001:db8::9", True), ("11.0.0.1", False),
        ("::ffff:11.0.0.1", False), ("2001:db9::9", False), ("not an address", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_an_address_is_inside_or_refused(address: str | None, inside: bool) -> None:
    assert address_in(address, ("10.0.0.0/8", "2001:db8::/32")) is inside


def test_a_key_says_the_first_thing_that_is_wrong_with_it() -> None:
    key = replace(KEY, revoked_at=NOON, expires_at=NOON, allowed_cidrs=("10.0.0.0/8",))
    grant = replace(grant_of(key), tenant_status=TenantStatus.SUSPENDED)
    said: list[type[ForecourtError]] = []
    for mended in (
        grant,
        replace(grant, key=replace(key, revoked_at=None)),
        replace(grant, key=replace(key, revoked_at=None, expires_at=None)),
        replace(grant, key=replace(key, revoked_at=None, expires_at=None), tenant_status=TenantStatus.ACTIVE),
    ):
        with pytest.raises(ForecourtError) as refused:
            mended.require_usable(NOON, "192.0.2.1")
        said.append(refused.type)
    assert said == [KeyRevoked, KeyExpired, TenantSuspended, AddressNotAllowed]


def test_a_key_without_networks_may_be_used_from_anywhere_and_an_empty_list_from_nowhere() -> None:
    grant_of(KEY).require_usable(NOON, None)
    with pytest.raises(AddressNotAllowed):
        grant_of(replace(KEY, allowed_cidrs=())).require_usable(NOON, "10.1.2.3")


# The limits that apply


def test_a_key_without_a_limit_takes_its_tenants() -> None:
    assert grant_of(KEY).rates == (
        RateRule(scope="key", subject="key_1", per_window=600),
        RateRule(scope="tenant", subject="ten_1", per_window=600),
    )


def test_a_keys_lower_limit_holds_beside_its_tenants() -> None:
    assert grant_of(replace(KEY, rate_per_minute=60)).rates == (
        RateRule(scope="key", subject="key_1", per_window=60),
        RateRule(scope="tenant", subject="ten_1", per_window=600),
    )


@given(own=st.integers(1, 10**6) | st.none(), tenants=st.integers(1, 10**6))
def test_a_keys_limit_is_never_above_its_tenants(own: int | None, tenants: int) -> None:
    grant = grant_of(replace(KEY, rate_per_minute=own), replace(PLAN, rate_per_minute=tenants))
    assert key_rate(grant) == min(tenants, own or tenants)
    assert key_rate(grant) <= tenants


def test_a_key_without_a_quota_counts_on_its_tenants_alone() -> None:
    assert grant_of(KEY).quotas == (QuotaRule(scope="tenant", subject="ten_1", limit=10_000, mode=QuotaMode.SOFT),)


def test_a_keys_own_quota_is_hard_and_stands_beside_its_tenants() -> None:
    assert grant_of(replace(KEY, monthly_quota=500)).quotas == (
        QuotaRule(scope="tenant", subject="ten_1", limit=10_000, mode=QuotaMode.SOFT),
        QuotaRule(scope="key", subject="key_1", limit=500, mode=QuotaMode.HARD),
    )


def test_a_quota_of_nothing_is_a_quota() -> None:
    quotas = grant_of(replace(KEY, monthly_quota=0)).quotas
    assert [rule.limit for rule in quotas if rule.scope == "key"] == [0]


def test_a_tenant_without_a_cap_is_still_counted() -> None:
    assert grant_of(KEY, replace(PLAN, monthly_quota=None)).quotas[0].limit is None


def test_a_grant_remembers_the_versions_it_was_read_at() -> None:
    grant = KeyGrant.assemble(key=KEY, tenant_status=TenantStatus.SUSPENDED, tenant_version=3, plan=PLAN)
    assert (grant.tenant_version, grant.key.version) == (3, 7)
    assert grant.tenant_status is TenantStatus.SUSPENDED
    assert grant.plan is PLAN
