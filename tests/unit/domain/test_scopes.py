"""Nobody hands out more than they hold, and no seat in a tenant reaches above it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.scopes import (
    DEFAULT_KEY_SCOPES,
    PLATFORM_ROLE_SCOPES,
    PLATFORM_SCOPES,
    ROLE_SCOPES,
    TENANT_SCOPES,
    PlatformRole,
    Role,
    Scope,
    format_scopes,
    parse_scopes,
)

scope_sets = st.frozensets(st.sampled_from(Scope))


def test_scopes_are_spelt_as_in_the_contract() -> None:
    assert {scope.value for scope in TENANT_SCOPES} == {
        "predict", "models:read", "keys:read", "keys:write", "members:read", "members:write", "limits:read",
        "limits:write", "usage:read", "usage:export", "audit:read", "tenant:write",
    }  # fmt: skip
    assert {scope.value for scope in PLATFORM_SCOPES} == {
        "admin", "usage:all", "usage:adjust", "billing:close"
    }  # fmt: skip


def test_every_scope_is_either_a_tenants_or_the_platforms() -> None:
    assert set(Scope) == TENANT_SCOPES | PLATFORM_SCOPES
    assert not TENANT_SCOPES & PLATFORM_SCOPES


def test_every_role_has_its_scopes_stated() -> None:
    assert set(ROLE_SCOPES) == set(Role)
    assert set(PLATFORM_ROLE_SCOPES) == set(PlatformRole)


@pytest.mark.parametrize("role", list(Role))
def test_no_tenant_role_holds_a_platform_scope(role: Role) -> None:
    assert ROLE_SCOPES[role]
    assert not ROLE_SCOPES[role] & PLATFORM_SCOPES


def test_a_key_is_born_without_a_platform_scope() -> None:
    assert set(DEFAULT_KEY_SCOPES) == {Scope.PREDICT, Scope.MODELS_READ}


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.BILLING, Role.VIEWER])
def test_only_owners_and_admins_manage_people_limits_and_the_tenant(role: Role) -> None:
    managing = {Scope.MEMBERS_WRITE, Scope.LIMITS_WRITE, Scope.TENANT_WRITE}
    assert ROLE_SCOPES[Role.OWNER] >= managing
    assert ROLE_SCOPES[Role.ADMIN] >= managing
    assert not ROLE_SCOPES[role] & managing


def test_developers_have_keys_and_predictions() -> None:
    assert ROLE_SCOPES[Role.DEVELOPER] >= {Scope.PREDICT, Scope.KEYS_READ, Scope.KEYS_WRITE}


def test_billing_sees_usage_and_neither_predicts_nor_makes_keys() -> None:
    assert ROLE_SCOPES[Role.BILLING] == {Scope.USAGE_READ, Scope.USAGE_EXPORT, Scope.LIMITS_READ}


def test_viewers_change_nothing_and_predict_nothing() -> None:
    assert all(scope.endswith(":read") for scope in ROLE_SCOPES[Role.VIEWER])


def test_the_billing_reader_reads_the_usage_of_all_tenants_and_closes_months_and_nothing_else() -> None:
    assert PLATFORM_ROLE_SCOPES[PlatformRole.BILLING_READER] == {Scope.USAGE_ALL, Scope.BILLING_CLOSE}


@given(scope_sets)
def test_scopes_survive_being_written_and_read(scopes: frozenset[Scope]) -> None:
    assert parse_scopes(format_scopes(scopes)) == scopes


def test_scopes_are_written_sorted_and_separated_by_one_space() -> None:
    assert format_scopes(TENANT_SCOPES) == (
        "audit:read keys:read keys:write limits:read limits:write members:read members:write models:read "
        "predict tenant:write usage:export usage:read"
    )


@pytest.mark.parametrize("text", ["predict unknown", "PREDICT", "predict,models:read", "predict:", "*"])
def test_a_scope_that_does_not_exist_makes_the_whole_text_unreadable(text: str) -> None:
    assert parse_scopes(text) is None
