"""Migrations, on SQLite and on PostgreSQL: up, down, together, in step with the tables, and what they protect."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

from alembic import command
from backend.adapters.db import tables
from backend.adapters.db.engine import open_engine
from backend.adapters.db.migrations import LEDGER_PARTITION, PROJECT, DatabaseUnusable, require_current, upgrade
from backend.adapters.db.usage import SqlUsageReader
from backend.domain.ids import TenantId, new_id
from backend.domain.usage import LEDGER_START, EventFilter, UsageEvent
from tests.contracts.closing import OVER, a_closer, a_subscriber, close
from tests.contracts.ledgers import an_event, append_all, current_transaction, insert, new_tenant, opened_books
from tests.databases import alembic_config, connected, newest_revision, postgres_database, sqlite_url
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

PROCESSES = 4
WITHIN_S = 60.0
# Only the migrations know these: what one dialect alone has, and an index that holds for some rows only.
ONLY_IN_MIGRATIONS = {
    "sqlite": {"uq_subscriptions_running", "ix_usage_events_period", "uq_usage_adjustments_late_event"},
    "postgresql": {
        "uq_subscriptions_running",
        "commit_xid",
        "ix_usage_events_commit",
        "ix_usage_events_order",
        "uq_usage_adjustments_late_event",
    },
}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of either kind."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path)
        return
    with postgres_database(request.getfixturevalue("postgres_url")) as url:
        yield url


postgres_only = pytest.mark.parametrize("url", ["postgres"], indirect=True)
sqlite_only = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def test_an_empty_database_is_brought_up_to_date_once(url: str) -> None:
    assert upgrade(url) == (None, newest_revision())
    assert upgrade(url) == (newest_revision(), newest_revision())
    require_current(url)
    with connected(url) as connection:
        found = set(inspect(connection).get_table_names())
    assert {name for name in found if not LEDGER_PARTITION.search(name)} == {
        *SQLModel.metadata.tables,
        "alembic_version",
    }


def test_every_revision_goes_up_down_and_up_again(url: str) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    for script in reversed(list(scripts.walk_revisions())):
        before = objects_of(url)
        migrate(url, script.revision)
        after = objects_of(url)
        # What only PostgreSQL can do is no change on SQLite.
        assert after != before or url.startswith("sqlite")
        migrate(url, "-1", down=True)
        assert objects_of(url) == before
        migrate(url, script.revision)
        assert objects_of(url) == after
    require_current(url)


def test_the_tables_and_the_migrations_say_the_same(url: str) -> None:
    upgrade(url)
    ignored: set[str] = set()
    with connected(url) as connection:
        expected = ONLY_IN_MIGRATIONS[connection.dialect.name]

        def is_compared(_: object, name: str | None, _kind: str, is_reflected: bool, _other: object) -> bool:
            if LEDGER_PARTITION.search(name or ""):
                return False
            if is_reflected and name in expected:
                ignored.add(name)
                return False
            return True

        options = {"compare_type": True, "compare_server_default": True, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.UsageEventRow.metadata) == []
    assert ignored == expected


def test_concurrent_upgrades_do_not_disturb_each_other(url: str) -> None:
    code = (
        "import sys; from backend.adapters.db.migrations import upgrade; print('ready', flush=True);"
        "sys.stdin.readline(); print(*upgrade(sys.argv[1]))"
    )
    starts = [
        subprocess.Popen(
            (sys.executable, "-c", code, url),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for start in starts:
            assert start.stdout is not None
            assert start.stdout.readline() == "ready\n"
        # All are loaded; now they begin at once.
        for start in starts:
            assert start.stdin is not None
            start.stdin.write("go\n")
            start.stdin.flush()
        ended = [(*start.communicate(timeout=WITHIN_S), start.returncode) for start in starts]
    finally:
        for start in starts:
            start.kill()
            start.communicate()
    newest = newest_revision()
    done, *nothing_to_do = sorted(ended, reverse=True)
    assert done == (f"None {newest}\n", "", 0)
    assert nothing_to_do == [(f"{newest} {newest}\n", "", 0)] * (PROCESSES - 1)
    require_current(url)


# Databases that this version cannot use


def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    upgrade(url)
    with connected(url) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.commit()
    before = objects_of(url)
    for use in (upgrade, require_current):
        with pytest.raises(DatabaseUnusable, match="9999, which is newer"):
            use(url)
    assert objects_of(url) == before
    with connected(url) as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == ["9999"]


def test_serving_needs_the_newest_revision(url: str) -> None:
    with pytest.raises(DatabaseUnusable, match="run `forecourt migrate`"):
        require_current(url)
    for script in reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions())):
        migrate(url, script.revision)
        if script.revision != newest_revision():
            with pytest.raises(DatabaseUnusable, match=f"at revision {script.revision}, .* run `forecourt migrate`"):
                require_current(url)
    require_current(url)


@sqlite_only
def test_what_is_no_database_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    file = tmp_path / "forecourt.db"
    garbage = b"certainly not a database\n" * 1000
    file.write_bytes(garbage)
    for use in (upgrade, require_current):
        with pytest.raises(DatabaseUnusable) as refused:
            use(url)
        assert len(str(refused.value).splitlines()) == 1
    assert file.read_bytes() == garbage


def test_a_server_that_is_not_there_is_refused() -> None:
    for use in (upgrade, require_current):
        with pytest.raises(DatabaseUnusable) as refused:
            use("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
        assert len(str(refused.value).splitlines()) == 1


# The ledger refuses changes (LEDGER.md R8)

UPSERT = "INSERT INTO usage_events SELECT * FROM usage_events WHERE true ON CONFLICT ({}) DO UPDATE SET units = 0"
CHANGES = {
    "sqlite": (
        "UPDATE usage_events SET units = 0",
        "UPDATE usage_events SET stored_at = stored_at WHERE units = 2",
        "DELETE FROM usage_events",
        "REPLACE INTO usage_events SELECT * FROM usage_events",
        UPSERT.format("position"),
    ),
    "postgresql": (
        "UPDATE usage_events SET units = 0",
        "UPDATE usage_events SET stored_at = stored_at WHERE false",
        "DELETE FROM usage_events",
        "TRUNCATE usage_events",
        "TRUNCATE usage_events CASCADE",
        UPSERT.format("tenant_id, event_id"),
    ),
}
TAMPERING = (
    "ALTER TABLE usage_events DISABLE TRIGGER ALL",
    "ALTER TABLE usage_events DISABLE ROW LEVEL SECURITY",
    "DROP TRIGGER usage_events_append_only ON usage_events",
    "DROP TABLE usage_events",
    "SET session_replication_role = replica",
)


@pytest.fixture
async def application(url: str) -> AsyncIterator[AsyncEngine]:
    """The application's own connections to a database with one usage event."""
    upgrade(url)
    async with opened_books(url) as books, books.writer() as ledger:
        tenant = new_tenant()
        await ledger.append(tenant, an_event(tenant))
    engine = open_engine(url, pool_size=2, timeout_s=10)
    yield engine
    await engine.dispose()


async def test_r8_the_application_cannot_change_the_ledger(url: str, application: AsyncEngine) -> None:
    before = ledger_of(url)
    for change in CHANGES[application.dialect.name]:
        with pytest.raises(DBAPIError, match=r"append only|permission denied"):
            async with application.begin() as connection:
                await connection.execute(text(change))
    assert ledger_of(url) == before
    assert len(before) == 1


async def test_r8_not_even_the_owner_changes_the_ledger_by_accident(url: str, application: AsyncEngine) -> None:
    before = ledger_of(url)
    for change in CHANGES[application.dialect.name]:
        if change.startswith("REPLACE"):
            # SQLite asks the triggers only on connections that say so, as the application's do.
            continue
        with connected(url) as connection, pytest.raises(DBAPIError, match="append only"):
            connection.execute(text(change))
    assert ledger_of(url) == before


FURTHER_BOOKS = {
    "usage_adjustments": "units = 0",
    "period_closings": "period = '2020-01'",
    "closed_periods": "period = '2020-01'",
}


@pytest.mark.parametrize("table", FURTHER_BOOKS)
async def test_r8_what_is_booked_beside_the_ledger_cannot_be_changed_either(
    url: str, application: AsyncEngine, table: str
) -> None:
    for change in (f"UPDATE {table} SET {FURTHER_BOOKS[table]}", f"DELETE FROM {table}"):
        await furnish_books(url)
        with pytest.raises(DBAPIError, match=r"append only|permission denied"):
            await attempt(application, change)
        with connected(url) as connection, pytest.raises(DBAPIError, match="append only"):
            connection.execute(text(change))


async def attempt(application: AsyncEngine, change: str) -> None:
    """Try a change as the application does that sees every tenant."""
    async with application.begin() as connection:
        if application.dialect.name == "postgresql":
            await connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
        await connection.execute(text(change))


async def furnish_books(url: str) -> None:
    """Have a row in each of the books."""
    async with opened_books(url) as books:
        tenant = await a_subscriber(books, new_tenant())
        clock = FakeClock(OVER)
        await close(a_closer(books, clock), tenant)
        async with books.writer(clock=clock) as ledger:
            await ledger.append(tenant, an_event(tenant))


@postgres_only
async def test_r8_the_application_cannot_lift_the_protection(url: str, application: AsyncEngine) -> None:
    before = objects_of(url)
    for attempt in TAMPERING:
        with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
            async with application.begin() as connection:
                await connection.execute(text(attempt))
    assert objects_of(url) == before


# Months for a ledger that has events already (migration 0013)

UNPARTED, PARTED, STRAYS_INDEXED = "0012", "0013", "0015"
JULY = datetime(2026, 7, 15, 12, 30, tzinfo=UTC)
AUGUST = datetime(2026, 8, 1, tzinfo=UTC)
MONTHS = (datetime(2026, 6, 3, 8, tzinfo=UTC), JULY, AUGUST + timedelta(days=20))
LEDGER = "SELECT * FROM usage_events ORDER BY commit_xid, position"
TOTALS = """SELECT tenant_id, period, count(*), sum(units), sum(billable_units), min(position), max(position)
            FROM usage_events GROUP BY tenant_id, period"""


@pytest.fixture
def owner_url(url: str) -> Iterator[str]:
    """The same database, owned by a plain login: unlike a superuser it is held to row-level security."""
    name = new_id("owner").lower()
    with connected(url) as server:
        server.execution_options(isolation_level="AUTOCOMMIT")
        server.execute(text(APPLICATION_ROLE))
        server.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'secret' NOSUPERUSER NOCREATEROLE"))
        server.execute(text(f"GRANT forecourt_app TO {name}"))
        server.execute(text(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO {name}'))
        try:
            scheme, _, rest = url.partition("://")
            yield f"{scheme}://{name}:secret@{rest.rpartition('@')[2]}"
        finally:
            server.execute(text(f"REASSIGN OWNED BY {name} TO CURRENT_USER"))
            server.execute(text(f"DROP OWNED BY {name}"))
            server.execute(text(f'ALTER DATABASE "{url.rpartition("/")[2]}" OWNER TO CURRENT_USER'))
            server.execute(text(f"DROP ROLE {name}"))


APPLICATION_ROLE = """
DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'forecourt_app') THEN CREATE ROLE forecourt_app NOLOGIN;
END IF; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
"""


def minted(tenant: TenantId, at: datetime, **changes: Any) -> UsageEvent:
    return an_event(tenant, **{"occurred_at": at, "id": new_id("evt", at_s=at.timestamp()), **changes})


def book(url: str, *events: UsageEvent) -> None:
    """Insert events in one transaction."""
    with connected(url) as replica:
        for event in events:
            insert(replica, event)
        replica.commit()


def fill(url: str, tenants: tuple[TenantId, TenantId]) -> list[UsageEvent]:
    """Book usage of three months, by many transactions and not in the order of their numbers; return it in that."""
    one, other = tenants
    with connected(url) as late:
        current_transaction(late)
        of_months = [[minted(tenant, at + timedelta(hours=n)) for tenant in tenants for n in (0, 1)] for at in MONTHS]
        for together in of_months:
            book(url, *together)
        # Minted in July's last millisecond and served in August; and ids that say no month.
        edge = minted(one, AUGUST, id=new_id("evt", at_s=AUGUST.timestamp() - 0.001))
        strange = [minted(other, AUGUST, id="evt_imported-1"), minted(one, JULY, id="legacy")]
        book(url, edge, *strange)
        last = minted(other, JULY)
        insert(late, last)
        late.commit()
    return [last, *(event for together in of_months for event in together), edge, *strange]


def read(url: str, query: str) -> list[tuple[Any, ...]]:
    """Read as a superuser: every tenant's rows."""
    with connected(url) as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def seen_by_application(url: str, tenant: TenantId | None) -> list[str]:
    with connected(url) as connection:
        connection.execute(text("SET ROLE forecourt_app"))
        if tenant is not None:
            connection.execute(text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": tenant})
        return list(connection.execute(text("SELECT event_id FROM usage_events ORDER BY position")).scalars())


def require_protected(url: str, tenants: tuple[TenantId, TenantId]) -> None:
    """Check what the ledger refuses, and to whom it shows what."""
    whose = read(url, "SELECT tenant_id, event_id FROM usage_events ORDER BY position")
    assert seen_by_application(url, None) == []
    for tenant in tenants:
        assert seen_by_application(url, tenant) == [event for owner, event in whose if owner == tenant]
    parts = [
        name
        for (name,) in read(
            url, "SELECT relname FROM pg_class WHERE relname ~ '^usage_events(_[0-9o].*)?$' AND relkind IN ('r', 'p')"
        )
    ]
    for part in parts:
        for change in ("UPDATE {} SET units = 0", "DELETE FROM {}", "TRUNCATE {}"):
            with connected(url) as owner, pytest.raises(DBAPIError, match="append only"):
                owner.execute(text(change.format(part)))
        [(enabled, forced)] = read(
            url, f"SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = '{part}'::regclass"
        )
        assert (enabled, forced) == (True, True), part


def parts_of_ledger(url: str) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for part, event in read(url, "SELECT tableoid::regclass::text, event_id FROM usage_events"):
        parts.setdefault(part.removeprefix("usage_events").removeprefix("_"), set()).add(event)
    return parts


@postgres_only
async def test_a_ledger_with_events_is_parted_and_put_together_again(url: str, owner_url: str) -> None:
    tenants = (new_tenant(), new_tenant())
    migrate(owner_url, UNPARTED)
    booked = fill(url, tenants)
    unparted, before, totals = objects_of(url), read(url, LEDGER), sorted(read(url, TOTALS))
    assert [event.id for event in booked] == [row[1] for row in before]
    assert [row[0] for row in before] != sorted(row[0] for row in before), "not in the order of positions"

    migrate(owner_url, PARTED)
    assert (read(url, LEDGER), sorted(read(url, TOTALS))) == (before, totals)
    require_protected(url, tenants)
    *_, edge, imported, legacy = booked
    parts = parts_of_ledger(url)
    assert set(parts) == {"2026_06", "2026_07", "2026_08", "other"}
    assert edge.id in parts["2026_07"]
    assert parts["other"] == {imported.id, legacy.id}

    # The application reads what came over in the same order, knows it when it comes again, and goes on behind it.
    async with opened_books(url) as books:
        following = minted(tenants[0], JULY)
        async with books.writer() as ledger:
            await append_all(ledger, [*(event for event in booked if event.tenant_id == tenants[0]), following])
        reader, expected = SqlUsageReader(books.database, FakeClock(OVER)), [*booked, following]
        with anyio.fail_after(WITHIN_S):
            # Other transactions of this server may hold the watermark back for a moment.
            while len((page := await reader.events_of_all_tenants(EventFilter(), LEDGER_START, 100)).events) < len(
                expected
            ):
                await anyio.sleep(0.01)
        assert [stored.event for stored in page.events] == expected
    grown = read(url, LEDGER)
    assert grown[:-1] == before
    assert grown[-1][0] > max(row[0] for row in before)

    # Each month indexes what it holds of other periods; what is of no month is indexed whole.
    migrate(owner_url, STRAYS_INDEXED)
    assert read(url, STRAY_INDEXES) == [(month,) for month in sorted(months_of(url))]
    async with opened_books(url) as books:
        reader = SqlUsageReader(books.database, FakeClock(OVER))
        for period in {event.period for event in expected}:
            page = await reader.events_of_all_tenants(EventFilter(period=period), LEDGER_START, 100)
            assert [stored.event for stored in page.events] == [event for event in expected if event.period == period]
    assert read(url, LEDGER) == grown

    migrate(owner_url, PARTED, down=True)
    assert read(url, STRAY_INDEXES) == []
    migrate(owner_url, UNPARTED, down=True)
    assert (read(url, LEDGER), objects_of(url)) == (grown, unparted)
    require_protected(url, tenants)
    book(url, minted(tenants[1], JULY))
    grown = read(url, LEDGER)

    migrate(owner_url, PARTED)
    assert read(url, LEDGER) == grown
    require_protected(url, tenants)


def ledger_of(url: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return [tuple(row) for row in connection.execute(text("SELECT * FROM usage_events"))]


def migrate(url: str, revision: str, *, down: bool = False) -> None:
    """Run migrations as Alembic's own command does."""
    config = alembic_config()
    with connected(url) as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)
        connection.commit()


SQLITE_OBJECTS = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
POSTGRES_OBJECTS = (
    """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
       WHERE table_schema = 'public'""",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "SELECT tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal",
    "SELECT tablename, policyname, qual, with_check FROM pg_policies WHERE schemaname = 'public'",
    """SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class
       WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')""",
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "SELECT udt_name, attribute_name, data_type FROM information_schema.attributes WHERE udt_schema = 'public'",
    """SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants
       WHERE grantee = 'forecourt_app'""",
)


STRAY_INDEXES = """SELECT replace(substring(tablename FROM 14), '_', '-') FROM pg_indexes
    WHERE indexname = tablename || '_strays' AND indexdef LIKE '%WHERE%period%<>%' ORDER BY tablename"""


def months_of(url: str) -> set[str]:
    """Return the months that the ledger has partitions for."""
    names = read(url, "SELECT relname FROM pg_class WHERE relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'")
    return {name.removeprefix("usage_events_").replace("_", "-") for (name,) in names}


def objects_of(url: str) -> set[tuple[Any, ...]]:
    """Return everything a database is made of, but for Alembic's own table."""
    with connected(url) as connection:
        queries = (SQLITE_OBJECTS,) if connection.dialect.name == "sqlite" else POSTGRES_OBJECTS
        rows = {tuple(row) for query in queries for row in connection.execute(text(query))}
    hidden = re.compile(rf"^alembic_version|{LEDGER_PARTITION.pattern}")
    return {row for row in rows if not any(hidden.search(str(value)) for value in row)}
