"""Who calls, and what it may do: scopes and models, no more than was granted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.api_keys import Environment, KeyGrant
from backend.domain.callers import ActorKind, Caller, PredictCaller
from backend.domain.errors import InsufficientScope, ModelNotAllowed
from backend.domain.ids import TenantId
from backend.domain.models import ModelInfo, Task
from backend.domain.plans import seed_plans
from backend.domain.scopes import Scope
from backend.domain.tenants import TenantStatus
from tests.keys import MADE_AT, a_key

FREE = seed_plans()[0]
IRIS_2 = ModelInfo(
    name="iris",
    version="2",
    digest="0" * 64,
    format="skops",
    task=Task.CLASSIFICATION,
    inputs=(),
    labels=None,
    runner="inline",
    runner_reason="",
    metrics={},
    created_at=MADE_AT,
)
GRANT = KeyGrant.assemble(
    key=a_key("AbCdEf012345", version=7, models=("iris", "wine@1"), environment=Environment.TEST, monthly_quota=5),
    tenant_status=TenantStatus.ACTIVE,
    tenant_version=3,
    plan=FREE,
)


def caller(scopes: frozenset[Scope]) -> Caller:
    return Caller(kind=ActorKind.USER, credential_id="usr_1", tenant_id=TenantId("ten_1"), scopes=scopes)


@given(held=st.frozensets(st.sampled_from(Scope)), asked=st.sampled_from(Scope))
def test_a_caller_may_do_what_it_holds_the_scope_for_and_nothing_else(held: frozenset[Scope], asked: Scope) -> None:
    for each in (caller(held), replace(PredictCaller.from_key(GRANT), scopes=held)):
        if asked in held:
            each.require(asked)
        else:
            with pytest.raises(InsufficientScope) as refused:
                each.require(asked)
            assert asked in refused.value.detail


def test_no_scope_holds_another() -> None:
    with pytest.raises(InsufficientScope):
        caller(frozenset(Scope) - {Scope.KEYS_READ}).require(Scope.KEYS_READ)


def test_a_key_calls_with_its_own_tenant_scopes_models_and_limits() -> None:
    found = PredictCaller.from_key(GRANT, address="192.0.2.1")
    key = GRANT.key
    assert (found.tenant_id, found.credential_id, found.lookup_id) == (key.tenant_id, key.id, key.lookup_id)
    assert (found.environment, found.scopes, found.models) == (Environment.TEST, key.scopes, key.models)
    assert (found.plan, found.rates, found.quotas) == (FREE, GRANT.rates, GRANT.quotas)
    assert found.address == "192.0.2.1"


@pytest.mark.parametrize("fresh", [True, False])
def test_a_key_calls_with_the_versions_it_was_read_at(fresh: bool) -> None:
    epochs = PredictCaller.from_key(GRANT, fresh=fresh).epochs
    assert (epochs.tenant, epochs.credential, epochs.fresh) == (3, 7, fresh)


@pytest.mark.parametrize(
    ("models", "reference", "allowed"),
    [
        (None, "iris", True),
        (("iris",), "iris", True),
        (("iris",), "iris@2", True),
        (("iris",), "iris@stable", True),
        (("iris@2",), "iris", True),
        (("iris@2",), "iris@stable", True),
        (("iris@stable",), "iris@stable", True),
        (("iris@stable",), "iris", False),
        (("iris@1",), "iris", False),
        (("iris@1",), "iris@stable", False),
        (("wine", "iris@3"), "iris@2", False),
        (("iri", "iris2", "IRIS"), "iris", False),
        ((), "iris", False),
    ],
)
def test_an_allow_list_holds_names_versions_or_aliases(
    models: tuple[str, ...] | None, reference: str, allowed: bool
) -> None:
    found = replace(PredictCaller.from_key(GRANT), models=models)
    if allowed:
        found.require_model(IRIS_2, reference)
    else:
        with pytest.raises(ModelNotAllowed):
            found.require_model(IRIS_2, reference)
