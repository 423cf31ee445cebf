"""Row-level security on PostgreSQL (A2): what the database itself refuses, whatever a query forgets.

The application's connections act as its own role. Everything below that is not the application's speaks raw SQL on
such a connection, as a query would that has forgotten whose rows it may touch.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from backend.adapters.db.engine import open_engine
from backend.adapters.db.ledger import GroupCommitLedger
from backend.adapters.db.migrations import require_current, upgrade
from backend.adapters.db.rollups import SqlUsageRollups
from backend.adapters.db.row_security import SecondTenantError, of_all_tenants, tenant_rows
from backend.adapters.db.tables import ExpiredPeriodRow
from backend.adapters.db.unit_of_work import Database, SqlUnitOfWork
from backend.adapters.memory.metrics import NullMetrics
from backend.domain.api_keys import Environment
from backend.domain.audit import SYSTEM, Action, AuditEntry, AuditFilter
from backend.domain.billing_periods import ClosedPeriod, ControlTotals
from backend.domain.ids import KeyId, TenantId, UserId, new_id
from backend.domain.invitations import Invitation
from backend.domain.plans import QuotaMode, seed_plans
from backend.domain.scopes import Role, Scope
from backend.domain.service_accounts import ServiceAccount
from backend.domain.tenants import Membership, Tenant, TenantStatus, User
from backend.domain.usage_alerts import QuotaUse, UsageAlert
from backend.domain.usage_pushes import BillerCustomer, PeriodTotal, next_push
from backend.domain.webhook_deliveries import Delivery
from backend.domain.webhooks import WebhookEndpoint, WebhookEvent, WebhookMessage
from backend.services.ports.store import StoredRepetition
from tests.contracts.ledgers import an_event
from tests.databases import connected, migrated_sqlite, postgres_database
from tests.keys import a_key

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)
JUNE = datetime(2026, 6, 15, 12, tzinfo=UTC)
PATIENT_S = 30.0
# These have a tenant, or may have one, and belong to a person: they are found by a secret or by their person.
OF_PEOPLE = {"sessions"}
_numbers = itertools.count(1)


def owned_tables() -> list[str]:
    """Return every table whose rows belong to tenants; a new one stands here by itself."""
    tables = SQLModel.metadata.tables
    return sorted(name for name, table in tables.items() if "tenant_id" in table.columns and name not in OF_PEOPLE)


APPEND_ONLY = {
    "usage_events",
    "audit_log",
    "usage_adjustments",
    "period_closings",
    "closed_periods",
    "expired_periods",
}
each_table = pytest.mark.parametrize("table", owned_tables())
# Only a function of the tables' owner writes these.
READ_ONLY = {"expired_periods"}
each_written = pytest.mark.parametrize("table", [name for name in owned_tables() if name not in READ_ONLY])
each_changeable = pytest.mark.parametrize("table", [name for name in owned_tables() if name not in APPEND_ONLY])


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> Iterator[str]:
    with postgres_database(postgres_url, is_migrated=True) as url:
        yield url


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """The application's connections: one, so that each transaction inherits what the last one left on it."""
    database = Database(open_engine(database_url, pool_size=1, timeout_s=PATIENT_S))
    yield database
    await database.aclose()


@pytest.fixture(scope="module")
async def tenants(database: Database, database_url: str) -> tuple[TenantId, TenantId]:
    """Two tenants with a row in every table."""
    tenants = await furnished(database), await furnished(database)
    with connected(database_url) as owner:
        rows = [{"tenant_id": tenant_id, "period": "2026-05", "expired_at": NOW} for tenant_id in tenants]
        owner.execute(insert(ExpiredPeriodRow), rows)
        owner.commit()
    return tenants


async def furnished(database: Database) -> TenantId:
    tenant_id = TenantId(f"ten_{next(_numbers)}")
    async with database.unit_of_work() as unit:
        await furnish(unit, tenant_id)
    ledger = GroupCommitLedger(database, metrics=NullMetrics())
    ledger.start()
    await ledger.append(tenant_id, an_event(tenant_id))
    await ledger.append(tenant_id, an_event(tenant_id, occurred_at=JUNE))
    await ledger.aclose()
    await roll_up(database, tenant_id)
    return tenant_id


async def roll_up(database: Database, tenant_id: TenantId) -> None:
    """Fold until the tenant's usage is in: other tests' transactions may hold the watermark back for a moment."""
    rollups = SqlUsageRollups(database)
    query = text("SELECT count(*) FROM usage_rollups WHERE tenant_id = :tenant")
    async with asyncio.timeout(PATIENT_S):
        while True:
            await rollups.fold_of_all_tenants()
            async with database.engine.connect() as connection:
                await let(connection, "app.platform", "on")
                if await connection.scalar(query, {"tenant": tenant_id}):
                    return
            await asyncio.sleep(0.01)


async def furnish(unit: SqlUnitOfWork, tenant_id: TenantId) -> None:
    for plan in seed_plans():
        await unit.plans.add(plan)
    tenant = Tenant(
        id=tenant_id,
        slug=tenant_id.replace("_", "-"),
        name="a tenant",
        status=TenantStatus.ACTIVE,
        version=1,
        created_at=NOW,
    )
    await unit.tenants.add(tenant)
    await unit.subscriptions.start(tenant_id, seed_plans()[0].id, NOW)
    user = User(
        id=UserId(new_id("usr")),
        email=f"{tenant_id}@example.org",
        password_hash="x",
        disabled=False,
        platform_role=None,
        created_at=NOW,
    )
    await unit.users.add(user)
    seat = Membership(id=new_id("mem"), tenant_id=tenant_id, user_id=user.id, role=Role.OWNER, created_at=NOW)
    await unit.memberships.add(tenant_id, seat)
    await unit.api_keys.add(tenant_id, a_key(f"key-of-{tenant_id}", tenant_id=tenant_id))
    await unit.invitations.add(
        tenant_id,
        Invitation(
            id=new_id("inv"),
            tenant_id=tenant_id,
            email="guest@example.org",
            role=Role.VIEWER,
            token_hash=tenant_id.encode(),
            invited_by=user.id,
            created_at=NOW,
            expires_at=NOW + timedelta(days=7),
            accepted_at=None,
            revoked_at=None,
        ),
    )
    await unit.service_accounts.add(
        ServiceAccount(
            id=new_id("sa"),
            tenant_id=tenant_id,
            name="a job",
            scopes=frozenset({Scope.USAGE_READ}),
            platform_role=None,
            secret_hash=b"hash",
            pepper_version=1,
            generation=1,
            created_by=user.id,
            created_at=NOW,
            rotated_at=None,
            deleted_at=None,
        )
    )
    await unit.idempotency.keep(
        tenant_id,
        StoredRepetition(
            credential_id=user.id,
            key="once",
            fingerprint=b"f",
            status=201,
            headers=(),
            sealed_body=b"sealed",
            created_at=NOW,
            expires_at=NOW + timedelta(days=1),
        ),
    )
    endpoint = WebhookEndpoint(
        id=f"whk_of_{tenant_id}",
        tenant_id=tenant_id,
        url="https://hooks.example.com/",
        description="",
        events=None,
        sealed_secret=b"sealed",
        previous=None,
        created_by=user.id,
        created_at=NOW,
    )
    await unit.webhook_endpoints.add(tenant_id, endpoint)
    message = WebhookMessage.telling(WebhookEvent.TEST, {}, NOW)
    await unit.webhook_deliveries.add(tenant_id, Delivery.of(message, endpoint, NOW))
    use = QuotaUse(
        period="2026-07",
        environment=Environment.LIVE,
        scope="tenant",
        subject=tenant_id,
        units=1,
        limit=2,
        mode=QuotaMode.HARD,
    )
    await unit.usage_alerts.add(tenant_id, UsageAlert(use=use, threshold=50, at=NOW))
    customer = BillerCustomer(tenant_id=tenant_id, customer_id="cus_1")
    await unit.biller_customers.set(tenant_id, customer.customer_id)
    push = next_push(None, customer, "2026-07", PeriodTotal(billable_units=1, is_closed=False), NOW)
    assert push is not None
    await unit.usage_pushes.store(tenant_id, "stripe", push)
    await unit.audit.record(tenant_id, AuditEntry(actor=SYSTEM, action=Action.TENANT_CREATED, target_id=tenant_id))
    # June is closed before its event comes, which is an adjustment then.
    await unit.periods.begin_close(tenant_id, "2026-06", NOW)
    totals = ControlTotals(
        events=0,
        adjustments=0,
        units=0,
        billable_units=0,
        amount_micros=0,
        currency="USD",
        first_position=None,
        last_position=None,
        sha256="00",
    )
    closed = ClosedPeriod(
        tenant_id=tenant_id, period="2026-06", closed_at=NOW, totals=totals, lines=(), files={}, marks={}
    )
    await unit.periods.add(tenant_id, closed)


async def let(connection: AsyncConnection, setting: str, value: str) -> None:
    await connection.execute(text("SELECT set_config(:setting, :value, true)"), {"setting": setting, "value": value})


async def owners(connection: AsyncConnection, table: str) -> set[str | None]:
    return {owner for (owner,) in await connection.execute(text(f"SELECT tenant_id FROM {table}"))}


def refused(error: ProgrammingError) -> bool:
    return isinstance(error.orig, InsufficientPrivilege) and "row-level security" in str(error.orig)


async def test_a2_the_application_is_its_own_role_and_no_superuser(database: Database) -> None:
    query = "SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    async with database.engine.connect() as connection:
        assert tuple((await connection.execute(text(query))).one()) == ("forecourt_app", False, False)


@each_table
async def test_a2_the_table_holds_even_its_owner(database: Database, table: str) -> None:
    query = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = CAST(:table AS regclass)"
    async with database.engine.connect() as connection:
        assert tuple((await connection.execute(text(query), {"table": table})).one()) == (True, True)


@each_table
async def test_a2_who_does_not_say_whose_rows_sees_none(database: Database, tenants: Any, table: str) -> None:
    async with database.engine.connect() as connection:
        assert await owners(connection, table) == set()
    async with database.engine.connect() as connection:
        await let(connection, "app.tenant_id", "")
        assert await owners(connection, table) == set()


@each_table
async def test_a2_another_tenants_rows_are_never_seen(database: Database, tenants: Any, table: str) -> None:
    for tenant_id in tenants:
        async with database.engine.connect() as connection:
            await let(connection, "app.tenant_id", tenant_id)
            assert await owners(connection, table) == {tenant_id}


@each_table
async def test_a2_the_named_escape_sees_everybody(database: Database, tenants: Any, table: str) -> None:
    async with database.engine.connect() as connection:
        await let(connection, "app.platform", "on")
        assert set(tenants) <= await owners(connection, table)


@each_written
@pytest.mark.parametrize("speaks_for_itself", [True, False])
async def test_a2_nobody_writes_a_row_for_another_tenant(
    database: Database, tenants: Any, table: str, speaks_for_itself: bool
) -> None:
    mine, theirs = tenants
    rows = SQLModel.metadata.tables[table]
    async with database.engine.connect() as connection:
        await let(connection, "app.tenant_id", mine)
        query = rows.select().where(rows.columns.tenant_id == mine).limit(1)
        row = dict((await connection.execute(query)).mappings().one())
        if not speaks_for_itself:
            await let(connection, "app.tenant_id", "")
        row.pop("position", None)
        with pytest.raises(ProgrammingError) as caught:
            await connection.execute(insert(rows).values(row | {"tenant_id": theirs}))
        assert refused(caught.value)


@each_changeable
async def test_a2_another_tenants_rows_can_neither_be_changed_nor_taken(
    database: Database, tenants: Any, table: str
) -> None:
    mine, theirs = tenants
    async with database.engine.connect() as connection:
        await let(connection, "app.tenant_id", mine)
        for statement in (
            f"UPDATE {table} SET tenant_id = tenant_id WHERE tenant_id = :theirs",
            f"DELETE FROM {table} WHERE tenant_id = :theirs",
        ):
            assert (await connection.execute(text(statement), {"theirs": theirs})).rowcount == 0
        with pytest.raises(ProgrammingError) as caught:
            await connection.execute(text(f"UPDATE {table} SET tenant_id = :theirs"), {"theirs": theirs})
        assert refused(caught.value)


async def test_a2_a_query_that_forgets_the_tenant_finds_nothing_of_others(database: Database, tenants: Any) -> None:
    mine, theirs = tenants
    async with database.unit_of_work(read_only=True) as unit:
        assert await unit.api_keys.get(mine, KeyId(f"key_key-of-{theirs}")) is None
        everything = text("SELECT tenant_id FROM api_keys")
        assert {owner for (owner,) in await unit.api_keys._session.execute(everything)} == {mine}


async def test_a2_a_pooled_connection_carries_nothing_over(database: Database, tenants: Any) -> None:
    mine, _ = tenants
    backend = text("SELECT pg_backend_pid()")

    async def left_over() -> tuple[set[str | None], int]:
        async with database.engine.connect() as connection:
            return await owners(connection, "api_keys"), (await connection.execute(backend)).scalar_one()

    _, process = await left_over()
    async with database.unit_of_work() as unit:
        await unit.api_keys.count_unrevoked(mine)
    assert await left_over() == (set(), process)
    with pytest.raises(ZeroDivisionError):
        await fail_midway(database, mine)
    assert await left_over() == (set(), process)
    async with database.unit_of_work(of_all_tenants=True) as unit:
        assert len(await unit.tenants.list_all()) >= 2
    assert await left_over() == (set(), process)


async def fail_midway(database: Database, tenant_id: TenantId) -> None:
    async with database.unit_of_work() as unit:
        await unit.audit.list(tenant_id, AuditFilter(), before_sequence=None, limit=1)
        raise ZeroDivisionError


async def touch(database: Database, first: TenantId, second: TenantId, *, of_all_tenants: bool) -> None:
    async with database.unit_of_work(read_only=True, of_all_tenants=of_all_tenants) as unit:
        await unit.api_keys.get(first, KeyId("key_1"))
        await unit.memberships.find(second, UserId("usr_1"))


async def test_a2_an_escape_lasts_no_longer_than_its_method(database: Database, tenants: Any) -> None:
    mine, _ = tenants
    async with database.unit_of_work(read_only=True) as unit:
        await unit.api_keys.count_unrevoked(mine)
        assert await unit.service_accounts.by_client_id_of_all_tenants("sa_nobody") is None
        assert await owners(await unit.api_keys._session.connection(), "api_keys") == {mine}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_unit_of_one_tenant_is_refused_for_a_second_one(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    if kind == "sqlite":
        database = Database(open_engine(migrated_sqlite(tmp_path), pool_size=2, timeout_s=PATIENT_S))
    else:
        url = request.getfixturevalue("database_url")
        database = Database(open_engine(url, pool_size=2, timeout_s=PATIENT_S))
    first, second = TenantId("ten_first"), TenantId("ten_second")
    with pytest.raises(SecondTenantError):
        await touch(database, first, second, of_all_tenants=False)
    await touch(database, first, second, of_all_tenants=True)
    await database.aclose()


def test_a_repository_method_says_whose_rows_it_touches() -> None:
    with pytest.raises(TypeError, match=r"Careless\.by_name"):

        @tenant_rows
        class Careless:
            async def by_name(self, name: str) -> None: ...

    @tenant_rows
    class Careful:
        async def get(self, tenant_id: TenantId, name: str) -> None: ...

        @of_all_tenants
        async def by_name_of_all_tenants(self, name: str) -> None: ...

        async def _helper(self) -> None: ...


@pytest.fixture
def logins(database_url: str) -> Iterator[tuple[str, str]]:
    """The names of two plain logins: the tables' owner, and the application's, both let in by an administrator."""
    mark = new_id("t").lower()
    names = (f"forecourt_owner_{mark}", f"forecourt_login_{mark}")
    with administrator(database_url) as connection:
        for name in names:
            connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' NOSUPERUSER NOCREATEROLE"))
            connection.execute(text(f"GRANT forecourt_app TO {name}"))
    yield names
    with administrator(database_url) as connection:
        for name in names:
            connection.execute(text(f"DROP ROLE {name}"))


@contextmanager
def administrator(url: str) -> Iterator[Connection]:
    with connected(url) as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def signed_in_as(url: str, name: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{name}:secret@{rest.rpartition('@')[2]}"


async def test_a2_with_separate_logins_the_owner_migrates_and_the_application_cannot(
    postgres_url: str, logins: tuple[str, str]
) -> None:
    owner, login = logins
    with postgres_database(postgres_url) as url:
        with administrator(url) as connection:
            connection.execute(text(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO {owner}'))
        upgrade(signed_in_as(url, owner))
        require_current(signed_in_as(url, login))
        database = Database(open_engine(signed_in_as(url, login), pool_size=2, timeout_s=PATIENT_S))
        tenant_id = await furnished(database)
        async with database.engine.connect() as connection:
            await let(connection, "app.tenant_id", tenant_id)
            assert await owners(connection, "api_keys") == {tenant_id}
            with pytest.raises(ProgrammingError):
                await connection.execute(text("ALTER TABLE api_keys DISABLE ROW LEVEL SECURITY"))
        await database.aclose()
        with connected(signed_in_as(url, owner)) as connection:
            assert connection.execute(text("SELECT count(*) FROM api_keys")).scalar_one() == 0, "FORCE"
