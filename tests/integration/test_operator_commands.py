"""What the operator does at the command line, in a process of its own, counts on a running server's next request.

The server is this process, in both shapes. Its key cache would go on with what it holds for half a minute.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest

from backend.settings import Settings
from tests.api.conftest import IRIS, SECRETS, TenantUnderTest, World, embedded_settings, running
from tests.api.test_predictions import problem
from tests.databases import postgres_database
from tests.integration.forecourt_process import forecourt
from tests.redis_client import fresh_redis

pytestmark = [pytest.mark.anyio, pytest.mark.process]


class Site:
    """A running server, and a command line with the same settings."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self._settings = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": settings.database_url,
            "MODELS": str(settings.models),
            "SECRET_KEY": SECRETS["secret_key"],
            "KEY_PEPPERS": SECRETS["key_peppers"],
        }
        if settings.redis_url:
            self._settings |= {"REDIS_URL": settings.redis_url, "REDIS_TIMEOUT_S": "2"}

    async def command(self, *arguments: str) -> Any:
        """Run a command in a process of its own; return what it printed as JSON."""
        done = await anyio.to_thread.run_sync(lambda: forecourt(*arguments, "--json", settings=self._settings))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def tenant(self) -> TenantUnderTest:
        """Make a tenant whose keys the server has in its cache."""
        tenant = await self.world.tenant()
        for key in (tenant.live, tenant.test):
            assert (await self.world.predict(key)).status_code == 200
        return tenant


@pytest.fixture(scope="module", params=["embedded", "server"])
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One application for all of these tests: each makes a tenant of its own, and one rotates the signing key."""
    folder = tmp_path_factory.mktemp("site")
    if request.param == "embedded":
        settings = embedded_settings(folder)
        async with running(settings, request.param) as world:
            yield Site(world, settings)
        return
    redis_url = fresh_redis(request.getfixturevalue("redis_url"))
    with postgres_database(request.getfixturevalue("postgres_url"), is_migrated=True) as url:
        settings = embedded_settings(
            folder, database_url=url, redis_url=redis_url, redis_timeout_s=5.0, database_timeout_s=20.0
        )
        async with running(settings, request.param) as world:
            yield Site(world, settings)


async def test_a9_a_key_that_was_revoked_is_refused(site: Site) -> None:
    tenant = await site.tenant()
    await site.command("keys", "revoke", tenant.slug, tenant.live.id)
    assert problem(await site.world.predict(tenant.live)) == (401, "key-revoked")
    assert problem(await site.world.client.get("/v1/models", headers=tenant.live.headers)) == (401, "key-revoked")
    assert (await site.world.predict(tenant.test)).status_code == 200


async def test_a9_a_tenant_that_was_suspended_is_refused_until_it_is_resumed(site: Site) -> None:
    tenant = await site.tenant()
    owner = await site.world.log_in(tenant.owner_email)
    await site.command("tenants", "suspend", tenant.slug)
    assert problem(await site.world.predict(tenant.live)) == (403, "tenant-suspended")
    assert problem(await site.world.client.get("/v1/me", headers=owner)) == (403, "tenant-suspended")
    await site.command("tenants", "resume", tenant.slug)
    assert (await site.world.predict(tenant.live)).status_code == 200


async def test_limits_that_were_put_in_shadow_refuse_nothing_until_they_are_enforced(site: Site) -> None:
    tenant = await site.tenant()
    many = IRIS * 61
    [standing] = await site.command("tenants", "subscribe", tenant.slug, "--plan", "free", "--enforcement", "shadow")
    assert (standing["plan"], standing["enforcement"]) == ("free@1", "shadow")
    assert (await site.world.predict(tenant.live, many)).status_code == 200
    [standing] = await site.command("tenants", "subscribe", tenant.slug, "--plan", "free")
    assert standing["enforcement"] == "enforce"
    assert problem(await site.world.predict(tenant.live, many)) == (429, "rate-limited")


async def test_k7_a_key_that_was_rotated_has_its_new_secret_only(site: Site) -> None:
    tenant = await site.tenant()
    [rotated] = await site.command("keys", "rotate", tenant.slug, tenant.live.id)
    assert problem(await site.world.predict(tenant.live)) == (401, "invalid-credentials")
    answer = await site.world.client.get("/v1/models", headers={"X-API-Key": rotated["secret"]})
    assert answer.status_code == 200


async def test_j7_tokens_go_on_when_the_signing_key_is_rotated(site: Site) -> None:
    tenant = await site.world.tenant()
    before = await site.world.log_in(tenant.owner_email)
    keys = await site.command("auth", "rotate-signing-key")
    assert len(keys) == 2
    assert await site.world.resources.token_issuer.refresh()
    after = await site.world.log_in(tenant.owner_email)
    for headers in (before, after):
        assert (await site.world.client.get("/v1/me", headers=headers)).status_code == 200
    shown = (await site.world.client.get("/.well-known/jwks.json")).json()["keys"]
    assert [key["kid"] for key in shown] == [key["kid"] for key in keys]
    assert await site.command("auth", "signing-keys") == keys
    assert await site.command("auth", "prune") == [{"removed": 0}]
