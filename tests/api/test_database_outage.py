"""Every route while the database is away: a 503 that says when to try again, within a bound, and never a 500.

Generated from the routes: a new one that needs the database and is public has to say here what it is sent.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from httpx import Response
from sqlalchemy.engine import make_url

from backend.domain.scopes import TENANT_SCOPES
from tests.api.conftest import Key, TenantUnderTest, World, embedded_settings, running
from tests.databases import postgres_cut_off, postgres_database
from tests.redis_client import fresh_redis
from tests.routes import served_routes
from tests.wire import Wire

pytestmark = pytest.mark.anyio

TIMEOUT_S = 0.5
ANSWERED_WITHIN_S = 8.0
"""For a connection, for an answer, and for a loaded machine."""

SECRET = "fm_" + "a" * 43
PASSWORD = "a quite long password"
PUBLIC_BODIES: dict[str, dict[str, Any]] = {
    "/v1/auth/token": {"data": {"grant_type": "password", "username": "ada@example.com", "password": PASSWORD}},
    "/v1/auth/revoke": {"data": {"token": "fr_" + "a" * 43}},
    "/v1/auth/register": {"json": {"email": "ada@example.com", "password": PASSWORD, "tenant_name": "Acme"}},
    "/v1/auth/confirm": {"json": {"token": SECRET}},
    "/v1/auth/forgot": {"json": {"email": "ada@example.com"}},
    "/v1/auth/reset": {"json": {"token": SECRET, "new_password": PASSWORD}},
    "/v1/invitations/accept": {"json": {"token": SECRET, "password": PASSWORD}},
}
NEEDS_NO_DATABASE = {
    "/livez",
    "/readyz",
    "/docs",
    "/docs/start.js",
    "/docs/static/{name}",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/accept-invitation",
    "/confirm",
    "/reset-password",
    "/mailed-link.js",
}
PREDICTIONS = {"/v1/predict", "/v1/models/{model}/predict"}


@dataclass
class Away:
    """An application whose database is away, and callers it knew before."""

    world: World
    tenant: TenantUnderTest
    owner: dict[str, str]
    key: Key
    ends: ExitStack = field(default_factory=ExitStack)

    async def ask(self, method: str, path: str, headers: dict[str, str] | None, **content: Any) -> Response:
        with anyio.fail_after(ANSWERED_WITHIN_S):
            return await self.world.client.request(method, path, headers=headers or {}, **content)


@pytest.fixture(params=["refused", "silent"])
async def away(
    request: pytest.FixtureRequest, postgres_url: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Away]:
    with postgres_database(postgres_url, is_migrated=True) as url:
        direct = make_url(url)
        wire = Wire(str(direct.host), int(direct.port or 5432))
        async with wire.open() as port:
            settings = embedded_settings(
                tmp_path,
                database_url=direct.set(host="127.0.0.1", port=port).render_as_string(hide_password=False),
                migration_database_url=url,
                redis_url=fresh_redis(redis_url),
                redis_timeout_s=5.0,
                database_timeout_s=TIMEOUT_S,
                sign_up=True,
                jobs="inside",
            )
            async with running(settings, "away") as world:
                away = await known(world)
                if request.param == "silent":
                    wire.go_silent()
                    away.ends.callback(wire.go_on)
                else:
                    away.ends.enter_context(postgres_cut_off(url))
                with away.ends:
                    yield away


async def known(world: World) -> Away:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=TENANT_SCOPES)
    assert (await world.predict(key)).status_code == 200
    return Away(world, tenant, await world.log_in(tenant.owner_email), key)


def routes(world: World) -> Iterator[tuple[str, str, str]]:
    """Yield method, path and what to ask for."""
    for route in served_routes(world.app):
        filled = route.path.replace("{model}", "iris").replace("{version}", "1").replace("{name}", "x")
        yield route.method, route.path, re.sub(r"\{(\w+)\}", "none_0000000000", filled)


async def test_every_route_answers_without_a_database(away: Away) -> None:
    wrong: list[tuple[str, str, str, int, str]] = []
    for method, path, target in routes(away.world):
        if path in PREDICTIONS:
            continue
        for name, headers in (("owner", away.owner), ("key", away.key.headers), ("nobody", None)):
            answer = await away.ask(method, target, headers, **PUBLIC_BODIES.get(path, {}))
            if path in NEEDS_NO_DATABASE:
                is_right = answer.status_code < 500 or path == "/readyz"
            elif name == "nobody" and path not in PUBLIC_BODIES:
                is_right = answer.status_code == 401
            else:
                is_right = answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            if not is_right:
                wrong.append((name, method, path, answer.status_code, answer.text[:200]))
            assert "psycopg" not in answer.text
    assert wrong == []


async def test_who_is_known_is_served_and_who_is_not_is_not_called_wrong(away: Away) -> None:
    assert (await away.world.predict(away.key)).status_code == 200
    # A good key that this process has never seen: it cannot be told from a wrong one.
    unseen = await away.ask(
        "POST", "/v1/predict", away.tenant.test.headers, json={"model": "iris", "inputs": [[1] * 4]}
    )
    assert (unseen.status_code, unseen.json()["code"]) == (503, "store-unavailable")
    assert int(unseen.headers["retry-after"]) > 0


async def test_it_says_degraded_and_recovers_by_itself(away: Away) -> None:
    assert (await away.world.predict(away.key)).status_code == 200
    ready = await away.ask("GET", "/readyz", None)
    states = {line["name"]: line["status"] for line in ready.json()["resources"]}
    assert (ready.status_code, states["database"], states["ledger"]) == (200, "degraded", "degraded")
    away.ends.close()
    with anyio.fail_after(30):
        while (await away.ask("GET", "/v1/usage/summary", away.key.headers)).status_code != 200:
            await anyio.sleep(0.05)
        while len(await away.world.events(away.tenant)) < 2:
            await anyio.sleep(0.05)
