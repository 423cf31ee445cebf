"""The application as production composes it, in both shapes: SQLite with in-process adapters, PostgreSQL with Redis.

One application of each shape serves a whole run; each test makes tenants of its own in it.
"""

import itertools
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from sqlalchemy import text

from backend.api.resources import Resources
from backend.domain.api_keys import Environment
from backend.domain.callers import ActorKind, Caller
from backend.domain.clock import Clock
from backend.domain.ids import TenantId
from backend.domain.limits import period_of
from backend.domain.scopes import TENANT_SCOPES, Role, Scope
from backend.main import create_app
from backend.services.api_keys import ApiKeyService, KeyWish
from backend.services.ports import PasswordHasher
from backend.services.tenants import TenantService
from backend.settings import Settings
from tests.databases import bring_up_to_date, connected, drop_postgres_database, make_postgres_database
from tests.fakes import FakeClock
from tests.model_cache import cached_demo_models
from tests.redis_client import fresh_redis

SECRETS: dict[str, Any] = {
    "secret_key": "tests-0123456789-abcdefghijklmnopqrstuv",
    "key_peppers": "1:tests-9876543210-zyxwvutsrqponmlkjihgfe",
}
PASSWORD = "seven purple elephants dance"
KEY_SCOPES = frozenset({Scope.PREDICT, Scope.MODELS_READ, Scope.USAGE_READ})
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key of a test's tenant."""

    id: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantUnderTest:
    """A tenant with an owner who can sign in, a live key and a test key."""

    id: TenantId
    slug: str
    owner_email: str
    live: Key
    test: Key


def a_new_number() -> int:
    """Return a number that no other test of this run is given."""
    return next(_numbers)


class KnownPassword:
    """The application's own hasher, but the tests' one password is hashed once in a run, and known when it is right.

    Argon2 is slow by design, and thousands of tests sign somebody in first. Every other password, and a wrong one,
    takes the whole way.
    """

    _hash: str | None = None

    def __init__(self, hasher: PasswordHasher) -> None:
        self._hasher = hasher

    async def hash(self, password: str) -> str:
        if password != PASSWORD:
            return await self._hasher.hash(password)
        if KnownPassword._hash is None:
            KnownPassword._hash = await self._hasher.hash(password)
        return KnownPassword._hash

    async def verify(self, password: str, stored: str | None) -> bool:
        if password == PASSWORD and stored is not None and stored == KnownPassword._hash:
            return True
        return await self._hasher.verify(password, stored)

    def is_outdated(self, stored: str) -> bool:
        return self._hasher.is_outdated(stored)


class World:
    """A running application, and what tests need to put into it."""

    def __init__(self, app: FastAPI, client: AsyncClient, shape: str, transport: ASGITransport) -> None:
        self.app = app
        self.client = client
        self.shape = shape
        self._transport = transport

    @property
    def address(self) -> str:
        """Where the client calls from."""
        return self._transport.client[0]

    def move(self) -> None:
        """Call from a network of its own from now on: failed logins are counted by network, and slow the next one."""
        self._transport.client = (a_new_address(), 50_000)

    @property
    def resources(self) -> Resources:
        resources: Resources = self.app.state.resources
        return resources

    async def tenant(self, plan: str = "enterprise") -> TenantUnderTest:
        """Make a tenant on a plan, with an owner and two keys."""
        slug = f"tenant-{next(_numbers)}-{self.shape}"
        async with self._unit() as (tenants, keys):
            if not hasattr(self.app.state, "has_plans"):
                await tenants.seed_plans()
            tenant = await tenants.create(slug=slug, name=slug, plan=plan)
            email = f"owner@{slug}.example"
            user = await tenants.add_user(email=email, password=PASSWORD)
            await tenants.seat(tenant.id, user.id, Role.OWNER)
            live = await self._key(keys, tenant.id, Environment.LIVE)
            test = await self._key(keys, tenant.id, Environment.TEST)
        self.app.state.has_plans = True
        return TenantUnderTest(id=tenant.id, slug=slug, owner_email=email, live=live, test=test)

    async def member(self, tenant: TenantUnderTest, role: Role) -> str:
        """Seat a new user in a tenant; return the address to sign in with."""
        email = f"user{next(_numbers)}@{tenant.slug}.example"
        async with self._unit() as (tenants, _):
            user = await tenants.add_user(email=email, password=PASSWORD)
            await tenants.seat(tenant.id, user.id, role)
        return email

    async def key(self, tenant: TenantUnderTest, environment: Environment = Environment.LIVE, **wish: Any) -> Key:
        """Make a further key."""
        async with self._unit() as (_, keys):
            return await self._key(keys, tenant.id, environment, **wish)

    async def log_in(self, email: str, **form: str) -> dict[str, str]:
        """Sign in; return the headers of a signed-in caller."""
        answer = await self.token(username=email, password=PASSWORD, **form)
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def token(self, *, grant_type: str = "password", **form: str) -> Response:
        """Ask the token endpoint."""
        return await self.client.post("/v1/auth/token", data={"grant_type": grant_type, **form})

    async def predict(
        self, key: Key, inputs: Any = None, *, model: str = "iris", headers: dict[str, str] | None = None, **body: Any
    ) -> Response:
        """Predict with a key."""
        rows = IRIS if inputs is None else inputs
        content = {"model": model, "inputs": rows, **body}
        answer = await self.client.post("/v1/predict", json=content, headers={**key.headers, **(headers or {})})
        # Over a socket the next request could not overtake this; within one process it would.
        await self.resources.predictions.settled()
        return answer

    async def events(self, tenant: TenantUnderTest) -> list[dict[str, Any]]:
        """Return all usage events of a tenant, once the watermark has passed those it had when asked."""
        reader = self.resources.usage_reader
        headers = tenant.live.headers
        while True:
            answer = await self.client.get("/v1/usage/events?limit=100", headers=headers)
            assert answer.status_code == 200, answer.text
            events: list[dict[str, Any]] = answer.json()["data"]
            # Other tests' open transactions may hold the watermark back for a moment.
            if sum(event["units"] for event in events) == await self._units(reader, tenant):
                return events

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """Read the store as its owner, past the application."""
        with connected(self.database_url) as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]

    def change(self, statement: str, **values: Any) -> None:
        """Change the store as its owner: as another process would, or a feature that these tests are not about."""
        with connected(self.database_url) as connection:
            connection.execute(text(statement), values)
            connection.commit()

    @property
    def redis_url(self) -> str | None:
        """Where its Redis is; ``None`` in the embedded shape."""
        url: str | None = self.app.state.redis_url
        return url

    @property
    def database_url(self) -> str:
        database: Any = self.resources.store
        return str(database.engine.url.render_as_string(hide_password=False))

    @staticmethod
    async def _units(reader: Any, tenant: TenantUnderTest) -> int:
        period = period_of(time.time())
        live = await reader.units_in_period(tenant.id, Environment.LIVE, period, None)
        test = await reader.units_in_period(tenant.id, Environment.TEST, period, None)
        return int(live + test)

    async def _key(self, keys: ApiKeyService, tenant_id: TenantId, environment: Environment, **wish: Any) -> Key:
        owner = Caller(kind=ActorKind.USER, credential_id="tests", tenant_id=tenant_id, scopes=TENANT_SCOPES)
        wanted = KeyWish(**{"name": "key", "environment": environment, "scopes": KEY_SCOPES, **wish})
        key, secret = await keys.create(owner, wanted)
        return Key(id=key.id, secret=secret)

    @asynccontextmanager
    async def _unit(self) -> AsyncIterator[tuple[TenantService, ApiKeyService]]:
        resources = self.resources
        async with resources.store.unit_of_work() as unit:
            tenants = TenantService(
                unit=unit,
                passwords=resources.password_hasher,
                admission=resources.admission,
                clock=resources.clock,
            )
            keys = ApiKeyService(
                unit=unit,
                hasher=resources.key_hasher,
                admission=resources.admission,
                cursors=resources.cursor_codec,
                clock=resources.clock,
            )
            yield tenants, keys


IRIS = [[5.1, 3.5, 1.4, 0.2]]
DEMO_MODELS = ("iris", "wine", "breast-cancer", "diabetes")


@asynccontextmanager
async def running(settings: Settings, shape: str, clock: Clock | None = None) -> AsyncIterator[World]:
    """Run an application within this process."""
    bring_up_to_date(settings.migration_url)
    app = create_app(settings, clock=clock)
    app.state.mail_folder = settings.mail_folder
    app.state.redis_url = settings.redis_url
    async with app.router.lifespan_context(app):
        opened: Resources = app.state.resources
        app.state.resources = replace(opened, password_hasher=KnownPassword(opened.password_hasher))
        transport = ASGITransport(app=app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://testserver", timeout=30) as client:
            yield World(app, client, shape, transport)


def own_models(folder: Path, names: Sequence[str] = ("iris",)) -> Path:
    """Return a copy of some demo models that an application may change; to load all four takes a third of a second."""
    models = folder / "models"
    if not models.exists():
        for name in names:
            shutil.copytree(cached_demo_models() / name, models / name)
    return models


def embedded_settings(folder: Path, **changes: Any) -> Settings:
    """Return settings of the embedded shape, with its state in a folder."""
    return Settings(
        **{
            "environment": "production",
            "database_url": f"sqlite+aiosqlite:///{folder / 'forecourt.db'}",
            **({} if "models" in changes else {"models": own_models(folder)}),
            "mail_folder": folder / "mail",
            # Receivers of the tests' own; the rest of the loopback stays closed.
            "outbound_allowed_networks": "127.0.0.1/32",
            # One test may call often, and some tests share an address.
            "login_rate": "1000000/minute",
            "anonymous_rate": "1000000/minute",
            "unknown_key_rate": 1_000_000,
            # Tests run the jobs that they are about.
            "jobs": "worker",
            **SECRETS,
            **changes,
        }
    )


@pytest.fixture(scope="session")
async def embedded_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("embedded")
    settings = embedded_settings(folder, models=own_models(folder, DEMO_MODELS))
    async with running(settings, "embedded") as world:
        yield world


@pytest.fixture(scope="session")
async def server_world(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("server")
    settings = embedded_settings(
        folder,
        models=own_models(folder, DEMO_MODELS),
        **server_stores(postgres_url, redis_url, "api"),
    )
    async with running(settings, "server") as world:
        yield world


def server_stores(postgres_url: str, redis_url: str, name: str) -> dict[str, Any]:
    """Return settings of the server shape, on stores of one application's own.

    The bounds are wide: tests that use them are about answers, not about waiting.
    """
    return {
        "database_url": fresh_database(postgres_url, name),
        "redis_url": fresh_redis(redis_url),
        "redis_timeout_s": 5.0,
        "database_timeout_s": 20.0,
    }


def stores_asked_for(request: pytest.FixtureRequest, name: str) -> dict[str, Any]:
    """Return the same where a fixture's parameter is ``server``, and nothing where it is ``embedded``."""
    if request.param == "embedded":
        return {}
    return server_stores(request.getfixturevalue("postgres_url"), request.getfixturevalue("redis_url"), name)


def fresh_database(postgres_url: str, suffix: str) -> str:
    """Make a migrated database next to the worker's own; return its URL."""
    base, _, name = postgres_url.rpartition("/")
    drop_postgres_database(base, f"{name}_{suffix}")
    make_postgres_database(base, f"{name}_{suffix}", is_migrated=True)
    return f"{base}/{name}_{suffix}"


@pytest.fixture(params=["embedded", "server"])
def world(request: pytest.FixtureRequest) -> World:
    """The application, once in each shape, called from where no other test calls from."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    found.move()
    return found


class ClockedWorld(World):
    """An application whose clock a test sets. It is shared, so it only ever goes forward."""

    def __init__(self, world: World, clock: FakeClock) -> None:
        super().__init__(world.app, world.client, world.shape, world._transport)
        self.clock = clock


@pytest.fixture(scope="session")
async def clocked_embedded_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    clock = FakeClock()
    folder = tmp_path_factory.mktemp("clocked")
    settings = embedded_settings(folder, models=own_models(folder, DEMO_MODELS))
    async with running(settings, "clocked-embedded", clock) as world:
        yield ClockedWorld(world, clock)


@pytest.fixture(scope="session")
async def clocked_server_world(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    clock = FakeClock()
    folder = tmp_path_factory.mktemp("server")
    settings = embedded_settings(
        folder,
        models=own_models(folder, DEMO_MODELS),
        **server_stores(postgres_url, redis_url, "clocked"),
    )
    async with running(settings, "clocked-server", clock) as world:
        yield ClockedWorld(world, clock)


@pytest.fixture(params=["embedded", "server"])
def clocked_world(request: pytest.FixtureRequest) -> ClockedWorld:
    """The application on a clock that the test sets, once in each shape."""
    found: ClockedWorld = request.getfixturevalue(f"clocked_{request.param}_world")
    found.move()
    return found


class Drain:
    """How much of a rate limit comes back while a test looks: limits refill by real time, on a slow machine by more."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def within(self, left: int, least: int, per_minute: int) -> bool:
        """Whether so much is left as was left at first, or as much more as may have come back since."""
        return least <= left <= least + 1 + (time.monotonic() - self._began_s) * per_minute / 60


@asynccontextmanager
async def calling_from(world: World, address: str) -> AsyncIterator[AsyncClient]:
    """A client whose connection comes from an address."""
    transport = ASGITransport(app=world.app, raise_app_exceptions=False, client=(address, 50_000))
    async with AsyncClient(transport=transport, base_url="http://testserver", timeout=30) as client:
        yield client


def a_new_address() -> str:
    """Return an address in a network that nobody has called from: failed logins are counted by network."""
    return f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"


@pytest.fixture
async def stranger(request: pytest.FixtureRequest) -> AsyncIterator[AsyncClient]:
    """A client from a network of its own, of whichever application the test asks for."""
    name = "clocked_world" if "clocked_world" in request.fixturenames else "world"
    world: World = request.getfixturevalue(name)
    async with calling_from(world, a_new_address()) as client:
        yield client
