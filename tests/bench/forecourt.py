"""Ours: stores migrated, a tenant with its keys, and ``forecourt serve`` as production runs it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from backend.adapters.db.migrations import upgrade
from backend.adapters.db.unit_of_work import SqlUnitOfWork
from backend.cli.console import tenant_service
from backend.composition import Shared, open_key_hasher, open_shared
from backend.domain.api_keys import ApiKey, Environment, mint_key
from backend.domain.clock import SystemClock
from backend.domain.ids import KeyId, new_id
from backend.domain.plans import Plan, QuotaMode
from backend.domain.scopes import Role, Scope
from backend.domain.tenants import Tenant
from backend.settings import Settings
from tests.bench.load import http_request
from tests.bench.machine import Cores
from tests.bench.processes import Served, free_port, python, serving

SECRET_KEY = "bench-0123456789-abcdefghijklmnopqrstuv"
KEY_PEPPERS = "1:bench-9876543210-zyxwvutsrqponmlkjihgfe"
PLAN = Plan(
    id="pln_0000000000000000000000bnch",
    name="bench",
    version=1,
    # Both limits are asked and spent for every request, and neither is ever reached.
    rate_per_minute=1_000_000_000,
    monthly_quota=1_000_000_000_000,
    quota_mode=QuotaMode.HARD,
    bills_cache_hits=False,
    max_api_keys=1_000_000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How ours is deployed; with ``redis_url`` unset it is the embedded shape."""

    name: str
    database_url: str
    redis_url: str | None
    models: Path
    workers: int = 1

    def environment(self, port: int) -> dict[str, str]:
        """Return the settings of a server, as an operator would give them: nothing is switched off."""
        values = {
            "ENVIRONMENT": "production",
            "SECRET_KEY": SECRET_KEY,
            "KEY_PEPPERS": KEY_PEPPERS,
            "DATABASE_URL": self.database_url,
            "MODELS": str(self.models),
            "PORT": str(port),
            "WORKERS": str(self.workers),
            # As in production: one line a request, into a file.
            "LOG_FORMAT": "json",
            # Stores share a core with the load generator here, and that is no outage.
            "REDIS_TIMEOUT_S": "2",
            "DATABASE_TIMEOUT_S": "10",
        }
        if self.redis_url is not None:
            values["REDIS_URL"] = self.redis_url
        return {f"FORECOURT_{name}": value for name, value in values.items()}

    def settings(self) -> Settings:
        return Settings(
            environment="production",
            database_url=self.database_url,
            redis_url=self.redis_url,
            secret_key=SecretStr(SECRET_KEY),
            key_peppers={1: SecretStr(KEY_PEPPERS.partition(":")[2])},
        )


def set_up(shape: Shape, *, tenants: int = 1, keys_each: int = 1) -> list[str]:
    """Migrate an empty store and fill it with tenants and keys; return the keys as callers send them."""
    upgrade(shape.settings().migration_url)
    return fill(shape, tenants=tenants, keys_each=keys_each)


def fill(shape: Shape, *, tenants: int = 1, keys_each: int = 1, plan: Plan = PLAN) -> list[str]:
    """Add tenants with keys to a migrated store; return the keys as callers send them."""
    return asyncio.run(_fill(shape.settings(), tenants, keys_each, plan))


def add_person(shape: Shape, email: str, password: str) -> None:
    """Add somebody who signs in, with a tenant."""
    asyncio.run(_add_person(shape.settings(), email, password))


async def _add_person(settings: Settings, email: str, password: str) -> None:
    async with AsyncExitStack() as stack:
        shared = await open_shared(settings, stack, SystemClock())
        tenant = await _tenant(shared, PLAN)
        async with tenant_service(shared) as (service, _):
            user = await service.add_user(email=email, password=password)
            await service.seat(tenant.id, user.id, Role.OWNER)


async def _fill(settings: Settings, tenants: int, keys_each: int, plan: Plan) -> list[str]:
    secrets: list[str] = []
    async with AsyncExitStack() as stack:
        shared = await open_shared(settings, stack, SystemClock())
        for first in range(0, tenants, 100):
            made = [await _tenant(shared, plan) for _ in range(min(100, tenants - first))]
            for tenant in made:
                async with shared.database.unit_of_work() as unit:
                    secrets += await _keys(settings, unit, tenant, keys_each)
    return secrets


async def _tenant(shared: Shared, plan: Plan) -> Tenant:
    async with tenant_service(shared) as (service, unit):
        await unit.plans.add(plan)
        return await service.create(slug=new_id("bench").lower().replace("_", "-"), name="bench", plan=plan.name)


async def _keys(settings: Settings, unit: SqlUnitOfWork, tenant: Tenant, count: int) -> list[str]:
    # Past the service: a hundred thousand entries of the audit log are not the subject.
    hasher = open_key_hasher(settings)
    written = []
    for _ in range(count):
        secret, minted = mint_key(Environment.LIVE)
        hashed, pepper_version = hasher.hash(minted.secret)
        written.append(secret)
        key = ApiKey(
            id=KeyId(new_id("key")),
            tenant_id=tenant.id,
            lookup_id=minted.lookup_id,
            name="bench",
            environment=Environment.LIVE,
            secret_hash=hashed,
            pepper_version=pepper_version,
            last4=secret[-4:],
            scopes=frozenset({Scope.PREDICT, Scope.USAGE_READ}),
            models=None,
            allowed_cidrs=None,
            rate_per_minute=None,
            monthly_quota=None,
            metadata={},
            generation=1,
            version=1,
            created_by="bench",
            created_at=tenant.created_at,
            expires_at=None,
            revoked_at=None,
            last_used_at=None,
        )
        await unit.api_keys.add(tenant.id, key)
    return written


@contextmanager
def forecourt(
    shape: Shape, *, cores: Cores, folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serve a shape that has been set up, on the server's core; further workers take the other cores as well."""
    port = free_port()
    everywhere = Cores(server=cores.server | cores.others, others=cores.others)
    with serving(
        python("backend.cli", "serve", "--port", str(port)),
        port,
        cores=cores if shape.workers == 1 else everywhere,
        log=folder / f"{shape.name}-{port}.log",
        environment={**shape.environment(port), **(settings or {})},
    ) as served:
        yield served


def predictions(
    port: int, model: str, rows: Sequence[str], keys: Sequence[str], *, rows_each: int = 1, **headers: str
) -> list[bytes]:
    """Return requests that ask ours; keys take turns, and there are as many requests as there are keys or rows."""
    requests = []
    for place in range(max(len(keys), len(rows) // rows_each)):
        chosen = [rows[(place * rows_each + number) % len(rows)] for number in range(rows_each)]
        body = f'{{"model": "{model}", "inputs": [{", ".join(chosen)}]}}'.encode()
        key = keys[place % len(keys)]
        requests.append(http_request(port, "/v1/predict", body, Authorization=f"Bearer {key}", **headers))
    return requests
