"""Looking up API keys, in one body over the store's own directory and the cache before it, on both databases.

What only the cache does (bounds, ages, order of answers) stands in ``tests/unit/adapters/test_key_directory_cache.py``.
"""

import itertools
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backend.adapters.db.engine import open_engine
from backend.adapters.db.key_directory import SqlKeyDirectory
from backend.adapters.db.unit_of_work import Database
from backend.adapters.memory.key_directory import CachedKeyDirectory
from backend.domain.api_keys import ApiKey, Environment, KeyGrant
from backend.domain.errors import StoreUnavailable
from backend.domain.ids import TenantId
from backend.domain.plans import Plan, seed_plans
from backend.domain.scopes import Scope
from backend.domain.tenants import Tenant, TenantStatus
from backend.services.ports import KeyDirectory
from tests.databases import sqlite_url
from tests.fakes import FakeClock
from tests.keys import MADE_AT, a_key

pytestmark = pytest.mark.anyio

PATIENT_S = 30.0
FREE, PRO, ENTERPRISE = seed_plans()
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Registry:
    """A migrated database, and what others put into it."""

    database: Database

    async def tenant(self, plan: Plan = PRO) -> TenantId:
        tenant_id = TenantId(f"ten_{next(_numbers)}")
        async with self.database.unit_of_work() as unit:
            await unit.plans.add(plan)
            await unit.tenants.add(
                Tenant(
                    id=tenant_id,
                    slug=tenant_id.replace("_", "-"),
                    name="A tenant",
                    status=TenantStatus.ACTIVE,
                    version=1,
                    created_at=MADE_AT,
                )
            )
            await unit.subscriptions.start(tenant_id, plan.id, MADE_AT)
        return tenant_id

    async def key(self, tenant_id: TenantId, lookup_id: str = "", **changes: Any) -> ApiKey:
        key = a_key(lookup_id or secrets.token_hex(6), tenant_id=tenant_id, **changes)
        async with self.database.unit_of_work() as unit:
            await unit.api_keys.add(tenant_id, key)
        return key

    async def revoke(self, key: ApiKey) -> None:
        async with self.database.unit_of_work() as unit:
            await unit.api_keys.revoke(key.tenant_id, key.id, MADE_AT)

    async def suspend(self, tenant_id: TenantId) -> None:
        async with self.database.unit_of_work() as unit:
            await unit.tenants.set_status(tenant_id, TenantStatus.SUSPENDED)

    async def put_on_plan(self, tenant_id: TenantId, plan: Plan) -> None:
        async with self.database.unit_of_work() as unit:
            await unit.plans.add(plan)
            await unit.subscriptions.start(tenant_id, plan.id, MADE_AT)


@pytest.fixture(scope="module")
async def registry(database_url: str) -> AsyncIterator[Registry]:
    database = Database(open_engine(database_url, pool_size=5, timeout_s=PATIENT_S))
    yield Registry(database)
    await database.aclose()


@pytest.fixture
async def store(registry: Registry, clock: FakeClock) -> AsyncIterator[SqlKeyDirectory]:
    store = SqlKeyDirectory(registry.database, clock)
    yield store
    await store.aclose()


@pytest.fixture(params=["store", "cached"])
def directory(request: pytest.FixtureRequest, store: SqlKeyDirectory, clock: FakeClock) -> KeyDirectory:
    return store if request.param == "store" else CachedKeyDirectory(store, clock, ttl_s=30.0)


async def test_a_key_is_found_with_all_that_applies_to_it(registry: Registry, directory: KeyDirectory) -> None:
    tenant_id = await registry.tenant(PRO)
    key = await registry.key(
        tenant_id,
        environment=Environment.TEST,
        scopes=frozenset({Scope.PREDICT, Scope.USAGE_READ}),
        models=("iris", "wine@2"),
        allowed_cidrs=("10.0.0.0/8", "2001:db8::/32"),
        rate_per_minute=60,
        monthly_quota=10**12,
        metadata={"team": "check\u00f6ut"},
        expires_at=MADE_AT + timedelta(days=30, microseconds=1),
        secret_hash=b"\x00\xff" * 16,
    )
    expected = KeyGrant.assemble(key=key, tenant_status=TenantStatus.ACTIVE, tenant_version=2, plan=PRO)
    assert await directory.find(key.lookup_id) == expected
    assert await directory.reload(key.lookup_id) == expected


async def test_a_plain_key_is_found_as_it_was_stored(registry: Registry, directory: KeyDirectory) -> None:
    key = await registry.key(await registry.tenant())
    grant = await directory.find(key.lookup_id)
    assert grant is not None
    assert grant.key == key


async def test_what_nobody_stored_is_not_found(registry: Registry, directory: KeyDirectory) -> None:
    await registry.key(await registry.tenant())
    for lookup_id in ("nobodystored", "", "%", "' OR '1'='1", "key\u0660"):
        assert await directory.find(lookup_id) is None
        assert await directory.reload(lookup_id) is None


async def test_an_id_is_found_letter_by_letter(registry: Registry, directory: KeyDirectory) -> None:
    lookup_id = "AbCd" + secrets.token_hex(4)
    key = await registry.key(await registry.tenant(), lookup_id)
    for other in (lookup_id.lower(), lookup_id.upper(), f" {lookup_id}", f"{lookup_id} ", lookup_id[:-1]):
        assert await directory.find(other) is None, other
    found = await directory.find(lookup_id)
    assert found is not None
    assert found.key.id == key.id


async def test_each_key_is_its_own_tenants(registry: Registry, directory: KeyDirectory) -> None:
    for plan in (FREE, PRO, ENTERPRISE):
        tenant_id = await registry.tenant(plan)
        grant = await directory.find((await registry.key(tenant_id)).lookup_id)
        assert grant is not None
        assert (grant.key.tenant_id, grant.plan) == (tenant_id, plan)
        assert {rule.subject for rule in grant.quotas} == {tenant_id}


async def test_a_revocation_is_seen_on_reload_with_a_newer_version(registry: Registry, directory: KeyDirectory) -> None:
    key = await registry.key(await registry.tenant())
    await directory.find(key.lookup_id)
    await registry.revoke(key)
    grant = await directory.reload(key.lookup_id)
    assert grant is not None, "it is still found, so that its owner can be told why it is refused"
    assert grant.key == replace(key, revoked_at=MADE_AT, version=key.version + 1)
    assert await directory.find(key.lookup_id) == grant


async def test_a_suspension_is_seen_on_reload_with_a_newer_version(registry: Registry, directory: KeyDirectory) -> None:
    tenant_id = await registry.tenant()
    key = await registry.key(tenant_id)
    before = await directory.find(key.lookup_id)
    await registry.suspend(tenant_id)
    after = await directory.reload(key.lookup_id)
    assert before is not None
    assert after is not None
    assert (before.tenant_status, after.tenant_status) == (TenantStatus.ACTIVE, TenantStatus.SUSPENDED)
    assert after.tenant_version > before.tenant_version


async def test_another_plan_is_seen_on_reload_with_a_newer_version(registry: Registry, directory: KeyDirectory) -> None:
    tenant_id = await registry.tenant(FREE)
    key = await registry.key(tenant_id)
    before = await directory.find(key.lookup_id)
    await registry.put_on_plan(tenant_id, ENTERPRISE)
    after = await directory.reload(key.lookup_id)
    assert before is not None
    assert after is not None
    assert (before.plan, after.plan) == (FREE, ENTERPRISE)
    assert [rule.per_window for rule in after.rates] == [ENTERPRISE.rate_per_minute] * 2
    assert after.tenant_version > before.tenant_version


async def test_a_key_made_after_its_id_was_asked_for_is_found_on_reload(
    registry: Registry, directory: KeyDirectory
) -> None:
    lookup_id = secrets.token_hex(6)
    assert await directory.find(lookup_id) is None
    await registry.key(await registry.tenant(), lookup_id)
    assert await directory.reload(lookup_id) is not None
    assert await directory.find(lookup_id) is not None


@pytest.mark.parametrize("kind", ["store", "cached"])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_dead_store_is_an_outage_and_not_an_unknown_key(
    kind: str, database: str, tmp_path: Path, clock: FakeClock
) -> None:
    # Port 1 belongs to nobody; a folder that is not there holds no file.
    dead = {"sqlite": sqlite_url(tmp_path / "gone"), "postgres": "postgresql+psycopg://nobody@127.0.0.1:1/nothing"}
    opened = Database(open_engine(dead[database], pool_size=2, timeout_s=2.0))
    store = SqlKeyDirectory(opened, clock)
    directory = store if kind == "store" else CachedKeyDirectory(store, clock, ttl_s=30.0)
    for ask in (directory.find, directory.reload, directory.find):
        with pytest.raises(StoreUnavailable):
            await ask("AbCdEf012345")
    await opened.aclose()
