"""Rotating the keys that sign access tokens, over servers that go on running, in both shapes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backend.adapters.crypto.signing_keys import SealingSmith
from backend.services.signing_keys import KEPT_AFTER_RETIREMENT, SigningKeyService
from backend.worker import signing_key_cleanup
from tests.api.conftest import SECRETS, ClockedWorld, embedded_settings, running, stores_asked_for
from tests.api.test_predictions import problem
from tests.api.trails import trail
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

TOKEN_TTL_S = 900


@dataclass(frozen=True, slots=True)
class Alone:
    """One server, and who rotates its keys."""

    first: ClockedWorld

    @property
    def clock(self) -> FakeClock:
        return self.first.clock

    async def rotate(self) -> str:
        """Rotate as the command line does, in neither server; return the new key's id."""
        # So that the keys have an order.
        self.clock.advance(1)
        resources = self.first.resources
        async with resources.store.unit_of_work() as unit:
            smith = SealingSmith(SECRETS["secret_key"])
            return (await SigningKeyService(unit=unit, smith=smith, clock=self.clock).rotate()).kid


@dataclass(frozen=True, slots=True)
class Pair(Alone):
    """Two servers over one store, on one clock."""

    second: ClockedWorld


@pytest.fixture(params=["embedded", "server"])
async def alone(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Alone]:
    async with over_one_store(request, tmp_path, servers=1) as (first,):
        yield Alone(first)


@pytest.fixture(params=["embedded", "server"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    async with over_one_store(request, tmp_path, servers=2) as (first, second):
        yield Pair(first, second)


@asynccontextmanager
async def over_one_store(
    request: pytest.FixtureRequest, folder: Path, *, servers: int
) -> AsyncIterator[list[ClockedWorld]]:
    clock = FakeClock()
    settings = embedded_settings(folder, models=folder / "none", **stores_asked_for(request, "signing"))
    async with AsyncExitStack() as stack:
        yield [
            ClockedWorld(await stack.enter_async_context(running(settings, request.param, clock)), clock)
            for _ in range(servers)
        ]


async def kids(world: ClockedWorld) -> list[str]:
    answer = await world.client.get("/.well-known/jwks.json")
    return [key["kid"] for key in answer.json()["keys"]]


async def me(world: ClockedWorld, headers: dict[str, str]) -> Any:
    return await world.client.get("/v1/me", headers=headers)


async def test_j7_a_running_server_takes_tokens_of_a_key_made_elsewhere(pair: Pair) -> None:
    tenant = await pair.first.tenant()
    old = await pair.first.log_in(tenant.owner_email)
    [old_kid] = await kids(pair.first)
    new_kid = await pair.rotate()
    assert await pair.second.resources.token_issuer.refresh()
    new = await pair.second.log_in(tenant.owner_email)
    for world in (pair.first, pair.second):
        assert (await me(world, old)).status_code == 200
        assert (await me(world, new)).status_code == 200
        assert await kids(world) == [new_kid, old_kid]


async def test_j7_old_tokens_verify_until_they_expire_and_a_removed_key_fails(alone: Alone) -> None:
    tenant = await alone.first.tenant()
    old = await alone.first.log_in(tenant.owner_email)
    new_kid = await alone.rotate()
    assert await alone.first.resources.token_issuer.refresh()
    alone.clock.advance(TOKEN_TTL_S)
    assert (await me(alone.first, old)).status_code == 200, "the leeway for clocks that differ"
    alone.clock.advance(31)
    assert problem(await me(alone.first, old)) == (401, "invalid-credentials")
    alone.clock.advance(KEPT_AFTER_RETIREMENT.total_seconds())
    assert await alone.first.resources.token_issuer.refresh()
    assert await kids(alone.first) == [new_kid]


async def test_j7_a_token_of_a_removed_key_fails_however_young(pair: Pair) -> None:
    tenant = await pair.first.tenant()
    await pair.rotate()
    # This server has not noticed and goes on signing with the old key.
    late = await pair.first.log_in(tenant.owner_email)
    assert (await me(pair.second, late)).status_code == 200
    pair.clock.advance(KEPT_AFTER_RETIREMENT.total_seconds())
    later = await pair.first.log_in(tenant.owner_email)
    assert await pair.second.resources.token_issuer.refresh()
    assert problem(await me(pair.second, later)) == (401, "invalid-credentials")


async def test_j7_the_clean_up_removes_what_verifies_nothing_any_more(alone: Alone) -> None:
    await alone.rotate()
    job = signing_key_cleanup(alone.first.resources.store, alone.clock)
    alone.clock.advance(KEPT_AFTER_RETIREMENT.total_seconds())
    assert await job.work() == 0
    alone.clock.advance(1)
    assert await job.work() == 1
    async with alone.first.resources.store.unit_of_work(read_only=True) as unit:
        assert [key.retired_at for key in await unit.signing_keys.list_all()] == [None]


async def test_j5_unknown_kids_have_the_keys_read_once_in_a_while(pair: Pair) -> None:
    issuer = pair.first.resources.token_issuer
    tenant = await pair.first.tenant()
    await pair.rotate()
    assert await pair.second.resources.token_issuer.refresh()
    unknown = await pair.second.log_in(tenant.owner_email)
    assert await issuer.refresh()
    await pair.rotate()
    assert await pair.second.resources.token_issuer.refresh() is False, "asked moments ago"
    # A second has passed with the rotation.
    pair.clock.advance(3)
    assert (await me(pair.first, unknown)).status_code == 200, "known since the refresh"
    assert await issuer.refresh() is False
    pair.clock.advance(1)
    assert await issuer.refresh()


async def test_j7_a_token_of_a_new_key_is_taken_right_after_the_keys_were_read_in_rhythm(pair: Pair) -> None:
    issuers = [world.resources.token_issuer for world in (pair.first, pair.second)]
    await issuers[0].reload()  # type: ignore[attr-defined]  # as the server does every half a minute
    tenant = await pair.first.tenant()
    await pair.rotate()
    assert await issuers[1].refresh()
    assert (await me(pair.first, await pair.second.log_in(tenant.owner_email))).status_code == 200


async def test_j7_a_token_of_a_new_key_is_revoked_by_a_server_that_does_not_know_it_yet(pair: Pair) -> None:
    tenant = await pair.first.tenant()
    await pair.rotate()
    assert await pair.second.resources.token_issuer.refresh()
    headers = await pair.second.log_in(tenant.owner_email)
    token = headers["Authorization"].removeprefix("Bearer ")
    assert (await pair.first.client.post("/v1/auth/revoke", data={"token": token})).status_code == 200
    assert problem(await me(pair.second, headers)) == (401, "invalid-credentials")


async def test_g1_a_rotation_is_one_record_of_the_platform_without_the_key(alone: Alone) -> None:
    [old_kid] = await kids(alone.first)
    new_kid = await alone.rotate()
    [record] = [each for each in await trail(alone.first, "platform") if each.entry.target_id == new_kid]  # type: ignore[arg-type]
    assert record.entry.action.value == "signing-key.rotated"
    assert (dict(record.entry.before), dict(record.entry.after)) == ({"kids": [old_kid]}, {"kids": [new_kid]})


async def test_k2_private_keys_are_sealed_and_the_key_set_is_public(alone: Alone) -> None:
    await alone.rotate()
    async with alone.first.resources.store.unit_of_work(read_only=True) as unit:
        for key in await unit.signing_keys.list_all():
            assert b"PRIVATE" not in key.sealed_private
    answer = await alone.first.client.get("/.well-known/jwks.json")
    assert all(set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"} for key in answer.json()["keys"])
