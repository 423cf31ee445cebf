"""Nobody hands on more than they hold, in whichever direction."""

import ipaddress
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.attenuation import Reach, require_grantable, require_within
from backend.domain.callers import ActorKind, Caller
from backend.domain.errors import RoleNotGrantable, ScopeExceedsGrantor
from backend.domain.ids import TenantId
from backend.domain.scopes import PLATFORM_SCOPES, ROLE_SCOPES, TENANT_SCOPES, Role, Scope, parse_scopes

NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)
NETWORKS = [
    "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/17", "10.1.128.0/17", "10.1.2.3/32", "192.0.2.0/24", "0.0.0.0/0",
    "2001:db8::/32", "2001:db8:1::/48", "::/0",
]  # fmt: skip
MODELS = ["iris", "iris@1", "iris@2", "iris@stable", "diabetes", "diabetes@1"]
ADDRESSES = ["10.1.2.3", "10.1.200.1", "10.200.0.1", "192.0.2.77", "203.0.113.9", "2001:db8:1::5", "2001:db8:2::5"]

scope_sets = st.frozensets(st.sampled_from(Scope))
some_numbers = st.none() | st.integers(min_value=0, max_value=4)
reaches = st.builds(
    Reach,
    scopes=scope_sets,
    models=st.none() | st.lists(st.sampled_from(MODELS), min_size=1, max_size=3).map(tuple),
    allowed_cidrs=st.none() | st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=3).map(tuple),
    expires_at=st.none() | st.integers(0, 3).map(lambda days: NOON + timedelta(days=days)),
    rate_per_minute=some_numbers,
    monthly_quota=some_numbers,
)
EVERYTHING = Reach(scopes=frozenset(Scope))


def is_within(child: Reach, grantor: Reach) -> bool:
    try:
        require_within(child, grantor)
    except ScopeExceedsGrantor:
        return False
    return True


def powers(reach: Reach) -> set[object]:
    """Return everything out of a small world that a credential of this reach can do, by trying it."""
    can: set[object] = set(reach.scopes)
    for model in MODELS:
        # What PredictCaller.require_model asks: the name, the version, or the reference as it was sent.
        if reach.models is None or {model, model.partition("@")[0]} & set(reach.models):
            can.add(("calls", model))
    for address in ADDRESSES:
        ip = ipaddress.ip_address(address)
        if reach.allowed_cidrs is None or any(ip in ipaddress.ip_network(net) for net in reach.allowed_cidrs):
            can.add(("from", address))
    can |= {
        ("after", days) for days in range(5) if reach.expires_at is None or NOON + timedelta(days) < reach.expires_at
    }
    can |= {("a minute", n) for n in range(6) if reach.rate_per_minute is None or n <= reach.rate_per_minute}
    can |= {("a month", n) for n in range(6) if reach.monthly_quota is None or n <= reach.monthly_quota}
    return can


@given(child=reaches, grantor=reaches)
def test_a6_what_is_let_through_can_do_nothing_that_its_grantor_cannot(child: Reach, grantor: Reach) -> None:
    if is_within(child, grantor):
        assert powers(child) <= powers(grantor)


@given(reach=reaches)
def test_a6_everybody_can_hand_on_exactly_what_they_are(reach: Reach) -> None:
    require_within(reach, reach)


@given(first=reaches, second=reaches, third=reaches)
def test_a6_handing_on_never_adds_up_to_more(first: Reach, second: Reach, third: Reach) -> None:
    if is_within(third, second) and is_within(second, first):
        assert is_within(third, first)


@given(reach=reaches)
def test_a6_who_is_not_restricted_may_hand_on_anything(reach: Reach) -> None:
    require_within(reach, EVERYTHING)


@pytest.mark.parametrize(
    "narrowing",
    [
        {"scopes": frozenset({Scope.PREDICT})},
        {"models": ("iris",)},
        {"allowed_cidrs": ("10.0.0.0/8",)},
        {"expires_at": NOON},
        {"rate_per_minute": 5},
        {"monthly_quota": 0},
    ],
    ids=lambda narrowing: next(iter(narrowing)),
)
def test_a6_leaving_a_restriction_out_is_asking_for_everything(narrowing: dict[str, object]) -> None:
    with pytest.raises(ScopeExceedsGrantor):
        require_within(EVERYTHING, replace(EVERYTHING, **narrowing))  # type: ignore[arg-type]


@given(child=scope_sets, grantor=scope_sets)
def test_the_refusal_names_the_scopes_that_are_too_much(child: frozenset[Scope], grantor: frozenset[Scope]) -> None:
    if child <= grantor:
        require_within(Reach(scopes=child), Reach(scopes=grantor))
        return
    with pytest.raises(ScopeExceedsGrantor) as refused:
        require_within(Reach(scopes=child), Reach(scopes=grantor))
    named = re.fullmatch(r"You cannot grant what you do not hold: (.+)\.", refused.value.detail)
    assert named is not None
    assert parse_scopes(named[1]) == child - grantor


@pytest.mark.parametrize(
    ("child", "grantor", "within"),
    [
        (("iris@2",), ("iris",), True),
        (("iris@stable",), ("iris",), True),
        (("iris",), ("iris@2",), False),
        (("iris", "diabetes"), ("iris",), False),
        ((), ("iris",), True),
    ],
)
def test_a_model_holds_its_versions_and_not_the_reverse(
    child: tuple[str, ...], grantor: tuple[str, ...], within: bool
) -> None:
    everything = frozenset(Scope)
    assert is_within(Reach(scopes=everything, models=child), Reach(scopes=everything, models=grantor)) is within


def test_two_halves_of_a_network_are_the_whole() -> None:
    halves = Reach(scopes=frozenset(), allowed_cidrs=("10.1.0.0/17", "10.1.128.0/17"))
    whole = Reach(scopes=frozenset(), allowed_cidrs=("10.1.0.0/16",))
    assert is_within(whole, halves)
    assert is_within(halves, whole)


def test_one_address_family_says_nothing_of_the_other() -> None:
    four = Reach(scopes=frozenset(), allowed_cidrs=("0.0.0.0/0",))
    six = Reach(scopes=frozenset(), allowed_cidrs=("::/0",))
    assert not is_within(four, six)
    assert not is_within(six, four)


@pytest.mark.parametrize("scope", sorted(PLATFORM_SCOPES))
@pytest.mark.parametrize("role", list(Role))
def test_no_tenant_role_can_grant_a_platform_scope(role: Role, scope: Scope) -> None:
    with pytest.raises(ScopeExceedsGrantor, match=scope):
        require_within(Reach(scopes=frozenset({scope})), Reach(scopes=ROLE_SCOPES[role]))


def test_a_callers_reach_is_all_that_narrows_it() -> None:
    caller = Caller(
        kind=ActorKind.API_KEY,
        credential_id="key_1",
        tenant_id=TenantId("ten_1"),
        scopes=TENANT_SCOPES,
        models=("iris",),
        allowed_cidrs=("10.0.0.0/8",),
        expires_at=NOON,
        rate_per_minute=7,
        monthly_quota=9,
    )
    assert caller.reach == Reach(
        scopes=TENANT_SCOPES,
        models=("iris",),
        allowed_cidrs=("10.0.0.0/8",),
        expires_at=NOON,
        rate_per_minute=7,
        monthly_quota=9,
    )


# ------------------------------------------------------------------------------------------------------- roles


@given(role=st.sampled_from(Role), grantor_role=st.none() | st.sampled_from(Role), scopes=scope_sets)
def test_a6_a_seat_is_granted_only_by_who_holds_all_of_it(
    role: Role, grantor_role: Role | None, scopes: frozenset[Scope]
) -> None:
    may = ROLE_SCOPES[role] <= scopes and (role is not Role.OWNER or grantor_role is Role.OWNER)
    if may:
        require_grantable(role, grantor_role=grantor_role, grantor_scopes=scopes)
    else:
        with pytest.raises(RoleNotGrantable):
            require_grantable(role, grantor_role=grantor_role, grantor_scopes=scopes)


def test_an_admin_holds_every_scope_of_an_owner_and_still_makes_none() -> None:
    with pytest.raises(RoleNotGrantable):
        require_grantable(Role.OWNER, grantor_role=Role.ADMIN, grantor_scopes=TENANT_SCOPES)
    require_grantable(Role.OWNER, grantor_role=Role.OWNER, grantor_scopes=TENANT_SCOPES)
