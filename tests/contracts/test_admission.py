"""Epochs and rate limits, in one body over every admission adapter."""

import asyncio
import dataclasses

import pytest

from backend.domain.admission import Epochs, Verdict
from backend.domain.api_keys import Environment
from backend.domain.health import HealthStatus
from backend.domain.ids import TenantId
from tests.contracts.asking import (
    Desk,
    ask,
    claim,
    key_rate,
    lease_of,
    model_rate,
    tenant_quota,
    tenant_rate,
)
from tests.contracts.stores import Store

pytestmark = pytest.mark.anyio

OTHER_TENANT = TenantId("ten_b")
FIRST = Epochs(tenant=1, credential=1)
FIRST_FRESH = Epochs(tenant=1, credential=1, fresh=True)


# Epochs


async def test_an_unknown_credential_is_stale_until_it_is_read_again(desk: Desk) -> None:
    assert await desk.verdict(ask(epochs=FIRST)) is Verdict.STALE
    assert await desk.verdict(ask(epochs=FIRST_FRESH)) is Verdict.ADMITTED
    assert await desk.verdict(ask(epochs=FIRST)) is Verdict.ADMITTED


async def test_a9_a_revocation_holds_from_the_next_request_on(desk: Desk) -> None:
    await desk.admit(ask(epochs=FIRST_FRESH))
    await desk.admission.announce(desk.tenant, "key_a", 2)
    assert await desk.verdict(ask(epochs=FIRST)) is Verdict.STALE
    assert await desk.verdict(ask(epochs=Epochs(tenant=1, credential=2))) is Verdict.ADMITTED


async def test_a9_a_suspension_holds_for_every_credential_of_the_tenant(desk: Desk) -> None:
    for key in ("key_a", "key_b"):
        await desk.admit(ask(key=key, epochs=FIRST_FRESH))
    await desk.admission.announce(desk.tenant, None, 2)
    for key in ("key_a", "key_b"):
        assert await desk.verdict(ask(key=key, epochs=FIRST)) is Verdict.STALE


async def test_a10_a_read_from_before_a_revocation_stays_stale_however_fresh(desk: Desk) -> None:
    await desk.admission.announce(desk.tenant, None, 1)
    await desk.admission.announce(desk.tenant, "key_a", 2)
    assert await desk.verdict(ask(epochs=FIRST_FRESH)) is Verdict.STALE
    assert await desk.verdict(ask(epochs=FIRST)) is Verdict.STALE
    assert await desk.verdict(ask(epochs=Epochs(tenant=1, credential=2, fresh=True))) is Verdict.ADMITTED


async def test_an_older_announcement_changes_nothing(desk: Desk) -> None:
    await desk.admission.announce(desk.tenant, None, 7)
    await desk.admission.announce(desk.tenant, "key_a", 7)
    await desk.admission.announce(desk.tenant, "key_a", 3)
    await desk.admission.announce(desk.tenant, None, 3)
    assert await desk.verdict(ask(epochs=Epochs(tenant=6, credential=7))) is Verdict.STALE
    assert await desk.verdict(ask(epochs=Epochs(tenant=7, credential=6))) is Verdict.STALE
    assert await desk.verdict(ask(epochs=Epochs(tenant=7, credential=7))) is Verdict.ADMITTED


async def test_a_copy_newer_than_the_announcement_is_good(desk: Desk) -> None:
    await desk.admit(ask(epochs=FIRST_FRESH))
    assert await desk.verdict(ask(epochs=Epochs(tenant=1, credential=5))) is Verdict.ADMITTED


async def test_epochs_of_one_tenant_say_nothing_about_another(desk: Desk) -> None:
    await desk.admit(ask(epochs=FIRST_FRESH))
    await desk.admission.admit(OTHER_TENANT, ask(epochs=FIRST_FRESH))
    await desk.admission.announce(OTHER_TENANT, "key_a", 9)
    await desk.admission.announce(OTHER_TENANT, None, 9)
    assert await desk.verdict(ask(epochs=FIRST)) is Verdict.ADMITTED


async def test_a_stale_request_spends_nothing(desk: Desk) -> None:
    limit, quota = key_rate(5), tenant_quota(5)
    request = ask(epochs=FIRST, rates=(limit,), quotas=(quota,), idempotency=claim())
    decision = await desk.admit(request)
    assert (decision.verdict, decision.lease) == (Verdict.STALE, None)
    assert await desk.remaining(limit) == 5
    assert await desk.counted(quota) == (0, 0)
    assert await desk.verdict(ask(idempotency=claim(fingerprint=b"x" * 32))) is Verdict.ADMITTED


# Rate limits


async def test_of_four_times_the_limit_at_once_exactly_the_limit_passes(desk: Desk) -> None:
    limit = key_rate(25)
    verdicts = await asyncio.gather(*[desk.verdict(ask(rates=(limit,))) for _ in range(100)])
    assert verdicts.count(Verdict.ADMITTED) == 25
    assert verdicts.count(Verdict.RATE_LIMITED) == 75


async def test_batches_at_once_never_pass_the_limit_together(desk: Desk) -> None:
    limit = key_rate(100)
    verdicts = await asyncio.gather(*[desk.verdict(ask(cost=7, rates=(limit,))) for _ in range(60)])
    assert verdicts.count(Verdict.ADMITTED) == 100 // 7
    assert await desk.remaining(limit) == 100 % 7


async def test_headers_are_right_to_the_unit_under_batches(desk: Desk) -> None:
    key, tenant = key_rate(600), tenant_rate(6000)
    decision = await desk.admit(ask(rates=(key, tenant)))
    assert [(s.rule, s.remaining, s.reset_s) for s in decision.standing.rates] == [(key, 599, 1), (tenant, 5999, 1)]
    decision = await desk.admit(ask(cost=250, rates=(key, tenant)))
    assert [(s.remaining, s.reset_s) for s in decision.standing.rates] == [(349, 26), (5749, 3)]
    desk.clock.advance(10)
    decision = await desk.admit(ask(cost=9, rates=(key, tenant)))
    assert [(s.remaining, s.reset_s) for s in decision.standing.rates] == [(440, 16), (5991, 1)]


async def test_a_refusal_by_one_limit_spends_nothing_of_the_others(desk: Desk) -> None:
    key, tenant, model = key_rate(10), tenant_rate(4), model_rate(100)
    await desk.admit(ask(cost=3, rates=(key, tenant, model)))
    decision = await desk.admit(ask(cost=2, rates=(key, tenant, model)))
    assert decision.verdict is Verdict.RATE_LIMITED
    assert [s.remaining for s in decision.standing.rates] == [7, 1, 97]
    assert [await desk.remaining(rule) for rule in (key, tenant, model)] == [7, 1, 97]
    assert decision.lease is None


async def test_waiting_as_long_as_told_is_enough_and_a_second_less_is_not(desk: Desk) -> None:
    limit = key_rate(6)
    await desk.admit(ask(cost=6, rates=(limit,)))
    decision = await desk.admit(ask(cost=2, rates=(limit,)))
    assert (decision.verdict, decision.retry_after_s) == (Verdict.RATE_LIMITED, 20)
    desk.clock.advance(19)
    assert await desk.verdict(ask(cost=2, rates=(limit,))) is Verdict.RATE_LIMITED
    desk.clock.advance(1)
    assert await desk.verdict(ask(cost=2, rates=(limit,))) is Verdict.ADMITTED


async def test_retry_after_is_never_less_than_a_second(desk: Desk) -> None:
    limit = key_rate(600)
    await desk.admit(ask(cost=600, rates=(limit,)))
    assert (await desk.admit(ask(rates=(limit,)))).retry_after_s == 1


async def test_a_request_larger_than_the_window_is_told_the_window(desk: Desk) -> None:
    decision = await desk.admit(ask(cost=11, rates=(key_rate(10),)))
    assert (decision.verdict, decision.retry_after_s) == (Verdict.RATE_LIMITED, 60)
    decision = await desk.admit(ask(cost=10, rates=(key_rate(10),)))
    assert decision.verdict is Verdict.ADMITTED


async def test_a_limit_of_nothing_admits_nothing(desk: Desk) -> None:
    decision = await desk.admit(ask(rates=(key_rate(0), tenant_rate(5))))
    assert (decision.verdict, decision.retry_after_s) == (Verdict.RATE_LIMITED, 60)
    assert [s.remaining for s in decision.standing.rates] == [0, 5]
    assert await desk.verdict(ask(quotas=(tenant_quota(0),))) is Verdict.QUOTA_EXCEEDED


async def test_the_longest_wait_counts(desk: Desk) -> None:
    key, tenant = key_rate(60), tenant_rate(6)
    await desk.admit(ask(cost=6, rates=(key, tenant)))
    assert (await desk.admit(ask(rates=(key, tenant)))).retry_after_s == 10


async def test_a_new_limit_holds_from_the_next_request_on(desk: Desk) -> None:
    await desk.admit(ask(cost=10, rates=(key_rate(10),)))
    assert await desk.verdict(ask(rates=(key_rate(10),))) is Verdict.RATE_LIMITED
    raised = await desk.admit(ask(cost=5, rates=(key_rate(20),)))
    assert (raised.verdict, raised.standing.rates[0].remaining) == (Verdict.ADMITTED, 5)
    assert await desk.verdict(ask(rates=(key_rate(10),))) is Verdict.RATE_LIMITED
    assert await desk.remaining(key_rate(10)) == 0


async def test_limits_of_two_tenants_and_of_two_keys_are_apart(desk: Desk) -> None:
    limit = key_rate(1)
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.ADMITTED
    other = await desk.admission.admit(OTHER_TENANT, ask(rates=(limit,)))
    assert other.verdict is Verdict.ADMITTED
    assert await desk.verdict(ask(key="key_b", rates=(key_rate(1, subject="key_b"),))) is Verdict.ADMITTED
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.RATE_LIMITED


async def test_a_clock_that_steps_back_gives_nothing_away(desk: Desk) -> None:
    limit = key_rate(10)
    await desk.admit(ask(cost=10, rates=(limit,)))
    desk.clock.advance(-30)
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.RATE_LIMITED
    desk.clock.advance(36)
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.ADMITTED
    assert await desk.verdict(ask(rates=(limit,))) is Verdict.RATE_LIMITED


# Standing and health


async def test_looking_spends_nothing_and_needs_no_credential(desk: Desk) -> None:
    rates, quotas = (key_rate(10), tenant_rate(100)), (tenant_quota(50),)
    lease = lease_of(await desk.admit(ask(cost=4, rates=rates, quotas=quotas)))
    decided = await desk.look(rates=rates, quotas=quotas)
    assert decided == await desk.look(rates=rates, quotas=quotas)
    assert [s.remaining for s in decided.rates] == [6, 96]
    assert [(s.used, s.reserved, s.remaining) for s in decided.quotas] == [(0, 4, 46)]
    await desk.settle(lease)
    settled = await desk.look(rates=rates, quotas=quotas)
    assert settled.quotas == (dataclasses.replace(decided.quotas[0], used=4, reserved=0),)


async def test_a_fresh_tenant_stands_at_its_full_limits(desk: Desk) -> None:
    standing = await desk.admission.standing(OTHER_TENANT, Environment.LIVE, (tenant_rate(9),), (tenant_quota(None),))
    assert (standing.rates[0].remaining, standing.rates[0].reset_s) == (9, 0)
    assert (standing.quotas[0].used, standing.quotas[0].remaining) == (0, None)


async def test_it_says_that_it_is_well(store: Store) -> None:
    (health,) = await store.open().check()
    assert (health.status, health.detail) == (HealthStatus.OK, "")
