"""What the clean-up jobs forget, and what they keep, in both shapes."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backend.domain.mailed_tokens import MailedToken, MailPurpose
from backend.domain.sessions import ABSOLUTE_LIFETIME
from backend.worker.jobs import (
    INVITATION_RETENTION,
    LOGIN_RETENTION,
    invitation_cleanup,
    login_cleanup,
    mailed_token_cleanup,
    revoked_token_cleanup,
)
from tests.api.conftest import PASSWORD, ClockedWorld, a_new_number, embedded_settings, running, stores_asked_for
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600.0


@pytest.fixture(params=["embedded", "server"])
async def aging_world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClockedWorld]:
    """An application of one test alone, whose clock it may set months ahead."""
    clock = FakeClock()
    settings = embedded_settings(tmp_path, **stores_asked_for(request, "aging"))
    async with running(settings, f"aging-{request.param}", clock) as world:
        yield ClockedWorld(world, clock)


async def test_a_login_is_kept_while_a_late_reuse_can_be_recognised_and_then_forgotten(
    aging_world: ClockedWorld,
) -> None:
    world = aging_world
    tenant = await world.tenant()
    tokens = (await world.token(username=tenant.owner_email, password=PASSWORD)).json()
    job = login_cleanup(world.resources.store, world.clock)
    world.clock.advance(ABSOLUTE_LIFETIME.total_seconds())
    await job.work()
    query = "SELECT id FROM sessions WHERE tenant_id = :tenant"
    assert len(world.rows(query, tenant=tenant.id)) == 1
    world.clock.advance((LOGIN_RETENTION - ABSOLUTE_LIFETIME).total_seconds() + 1)
    assert await job.work() >= 1
    assert world.rows(query, tenant=tenant.id) == []
    assert world.rows("SELECT id FROM refresh_tokens WHERE session_id NOT IN (SELECT id FROM sessions)") == []
    answer = await world.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert await job.work() == 0


async def test_mailed_tokens_are_forgotten_a_day_after_they_expire(aging_world: ClockedWorld) -> None:
    world = aging_world
    resources, now = world.resources, world.clock.now()
    email = f"user{a_new_number()}@elsewhere.example"
    async with resources.store.unit_of_work() as unit:
        for age in (timedelta(0), timedelta(hours=23), timedelta(hours=25)):
            token = MailedToken(
                id=f"mt_{a_new_number()}-{world.shape}",
                purpose=MailPurpose.RESET,
                email=email,
                token_hash=resources.mailed_tokens.hash(resources.mailed_tokens.mint()),
                created_at=now - age - timedelta(hours=1),
                expires_at=now - age,
                used_at=None,
                user_id=None,
                password_hash=None,
                tenant_name=None,
            )
            await unit.mailed_tokens.add(token)
    job = mailed_token_cleanup(resources.store, world.clock)
    query = "SELECT id FROM mailed_tokens WHERE email = :email"
    assert await job.work() >= 1
    assert len(world.rows(query, email=email)) == 2
    world.clock.advance(DAY_S + 1)
    assert await job.work() >= 2
    assert world.rows(query, email=email) == []


async def test_invitations_are_shown_for_a_while_after_they_ended_and_then_forgotten(
    aging_world: ClockedWorld,
) -> None:
    world = aging_world
    one, other = await world.tenant(), await world.tenant()
    for tenant in (one, other):
        headers = await world.log_in(tenant.owner_email)
        wish = {"email": f"user{a_new_number()}@elsewhere.example", "role": "viewer"}
        answer = await world.client.post("/v1/invitations", json=wish, headers=headers)
        assert answer.status_code == 201, answer.text
    job = invitation_cleanup(world.resources.store, world.clock)
    expires_at = datetime.fromisoformat(answer.json()["expires_at"])
    world.clock.set(expires_at + INVITATION_RETENTION)
    assert await job.work() == 0
    query = "SELECT tenant_id FROM invitations WHERE tenant_id IN (:one, :other)"
    assert len(world.rows(query, one=one.id, other=other.id)) == 2
    world.clock.advance(1)
    assert await job.work() == 2
    assert world.rows(query, one=one.id, other=other.id) == []


async def test_a_revoked_token_is_remembered_until_it_has_expired(aging_world: ClockedWorld) -> None:
    world = aging_world
    tenant = await world.tenant()
    headers = await world.log_in(tenant.owner_email)
    token = headers["Authorization"].removeprefix("Bearer ")
    await world.client.post("/v1/auth/revoke", data={"token": token})
    job = revoked_token_cleanup(world.resources.store, world.clock)
    world.clock.advance(900)
    await job.work()
    answer = await world.client.get("/v1/me", headers=headers)
    assert answer.status_code == 401, "within the leeway for clocks that differ it would verify"
    world.clock.advance(3600 + 1)
    assert await job.work() >= 1
    assert world.rows("SELECT id FROM revoked_tokens") == []
    assert await job.work() == 0
