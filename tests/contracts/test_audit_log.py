"""The audit log on both databases: chained, append only, and part of the transaction that it tells of."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backend.adapters.db.engine import open_engine
from backend.adapters.db.unit_of_work import Database
from backend.domain.audit import GENESIS, Action, Actor, AuditEntry, AuditFilter, ChainReport
from backend.domain.ids import TenantId
from tests.contracts.ledgers import new_tenant
from tests.databases import connected, migrated_sqlite, postgres_database

pytestmark = pytest.mark.anyio

ACTOR = Actor(kind="user", id="usr_1", address="192.0.2.1", request_id="req_1")
OFF = {
    "sqlite": "DROP TRIGGER audit_log_no_update; DROP TRIGGER audit_log_no_delete",
    "postgresql": "ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only",
}


each_change = pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET target_id = 'x' WHERE tenant_id = :tenant",
        "DELETE FROM audit_log WHERE tenant_id = :tenant",
    ],
    ids=["update", "delete"],
)


def an_entry(number: int = 0, action: Action = Action.TENANT_UPDATED) -> AuditEntry:
    return AuditEntry(
        actor=ACTOR,
        action=action,
        target_id=f"ten_{number}",
        before={"name": "Café"},
        after={"name": f"name {number}", "nested": {"b": [1, None], "a": True}},
    )


@dataclass(frozen=True, slots=True)
class Log:
    """A migrated database, as the application writes it and as its owner may tamper with it."""

    url: str
    database: Database

    async def write(self, tenant: TenantId, *entries: AuditEntry) -> None:
        for entry in entries:
            async with self.database.unit_of_work() as unit:
                await unit.audit.record(tenant, entry)

    async def verify(self, tenant: TenantId) -> ChainReport:
        async with self.database.unit_of_work(read_only=True) as unit:
            return await unit.audit.verify(tenant)

    def tamper(self, statement: str, **values: Any) -> None:
        """Change what may not be changed, as somebody who owns the tables could."""
        with connected(self.url) as connection:
            for switch in OFF[connection.dialect.name].split("; "):
                connection.exec_driver_sql(switch.replace("TRIGGER audit_log_no", "TRIGGER IF EXISTS audit_log_no"))
            connection.execute(text(statement), values)
            connection.commit()


@pytest.fixture(scope="module")
async def log(database_url: str) -> AsyncIterator[Log]:
    database = Database(open_engine(database_url, pool_size=10, timeout_s=30.0))
    yield Log(database_url, database)
    await database.aclose()


@pytest.fixture
async def fresh_log(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> AsyncIterator[Log]:
    """A log of its own, for what spoils it."""
    if database_url.startswith("sqlite"):
        url = migrated_sqlite(tmp_path)
        database = Database(open_engine(url, pool_size=2, timeout_s=30.0))
        yield Log(url, database)
        await database.aclose()
        return
    with postgres_database(request.getfixturevalue("postgres_url"), is_migrated=True) as url:
        database = Database(open_engine(url, pool_size=2, timeout_s=30.0))
        yield Log(url, database)
        await database.aclose()


async def test_records_count_from_one_and_each_holds_the_hash_before_it(log: Log) -> None:
    tenant = new_tenant()
    await log.write(tenant, *[an_entry(number) for number in range(4)])
    async with log.database.unit_of_work(read_only=True) as unit:
        records = [record async for record in unit.audit.walk(tenant)]
    assert [record.sequence for record in records] == [1, 2, 3, 4]
    assert [record.previous_hash for record in records] == [GENESIS, *[record.hash for record in records[:-1]]]
    assert records[2].entry == an_entry(2)
    report = await log.verify(tenant)
    assert (report.records, report.head, report.broken_at) == (4, records[-1].hash, None)


async def test_an_empty_chain_holds(log: Log) -> None:
    assert await log.verify(new_tenant()) == ChainReport(records=0, head=GENESIS, broken_at=None)


async def test_g1_a_roll_back_leaves_no_record(log: Log) -> None:
    tenant = new_tenant()

    async def fail_halfway() -> None:
        async with log.database.unit_of_work() as unit:
            await unit.audit.record(tenant, an_entry())
            raise LookupError

    with pytest.raises(LookupError):
        await fail_halfway()
    assert (await log.verify(tenant)).records == 0
    await log.write(tenant, an_entry())
    assert (await log.verify(tenant)).records == 1


async def test_records_written_at_once_are_one_chain(log: Log) -> None:
    tenant = new_tenant()
    await asyncio.gather(*[log.write(tenant, an_entry(number)) for number in range(25)])
    report = await log.verify(tenant)
    assert (report.records, report.broken_at) == (25, None)


async def test_each_tenant_has_a_chain_of_its_own(log: Log) -> None:
    first, second = new_tenant(), new_tenant()
    await log.write(first, an_entry(1))
    await log.write(second, an_entry(2))
    await log.write(first, an_entry(3))
    assert (await log.verify(first)).records == 2
    assert (await log.verify(second)).records == 1
    async with log.database.unit_of_work(read_only=True) as unit:
        found = await unit.audit.list(second, AuditFilter(), before_sequence=None, limit=10)
    assert [record.entry.target_id for record in found] == ["ten_2"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET target_id = 'x' WHERE tenant_id = :tenant",
        "DELETE FROM audit_log WHERE tenant_id = :tenant",
    ],
)
async def test_g2_the_application_can_neither_change_nor_delete(log: Log, statement: str) -> None:
    tenant = new_tenant()
    await log.write(tenant, an_entry())
    with pytest.raises(DBAPIError):
        async with log.database.engine.begin() as connection:
            await connection.execute(text(statement), {"tenant": tenant})
    assert (await log.verify(tenant)).records == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET target_id = 'x' WHERE tenant_id = :tenant",
        "DELETE FROM audit_log WHERE tenant_id = :tenant",
    ],
)
async def test_g2_even_the_tables_owner_is_stopped_by_the_trigger(log: Log, statement: str) -> None:
    tenant = new_tenant()
    await log.write(tenant, an_entry())
    with connected(log.url) as connection, pytest.raises(DBAPIError, match="append only"):
        connection.execute(text(statement), {"tenant": tenant})
    assert (await log.verify(tenant)).records == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("target_id", "ten_9"),
        ("actor_kind", "system"),
        ("actor_id", "usr_2"),
        ("actor_address", None),
        ("request_id", "req_2"),
        ("action", "tenant.resumed"),
        ("after", '{"name": "another"}'),
        ("before", "{}"),
        ("id", "aud_2"),
        ("hash", b"x" * 32),
        ("previous_hash", b"x" * 32),
    ],
    ids=lambda value: value if isinstance(value, str) and value.islower() else "",
)
async def test_g2_a_changed_byte_breaks_the_chain_at_its_record(fresh_log: Log, column: str, value: Any) -> None:
    tenant = new_tenant()
    await fresh_log.write(tenant, *[an_entry(number) for number in range(5)])
    statement = f"UPDATE audit_log SET {column} = :value WHERE tenant_id = :tenant AND sequence = 3"
    if column in {"before", "after"} and "postgres" in fresh_log.url:
        statement = statement.replace(":value", "CAST(:value AS json)")
    fresh_log.tamper(statement, value=value, tenant=tenant)
    report = await fresh_log.verify(tenant)
    assert (report.records, report.broken_at) == (2, 3)


async def test_g2_a_record_taken_out_breaks_the_chain_where_it_was(fresh_log: Log) -> None:
    tenant = new_tenant()
    await fresh_log.write(tenant, *[an_entry(number) for number in range(5)])
    fresh_log.tamper("DELETE FROM audit_log WHERE tenant_id = :tenant AND sequence = 2", tenant=tenant)
    assert (await fresh_log.verify(tenant)).broken_at == 2


async def test_a_cut_off_end_shows_by_the_head(fresh_log: Log) -> None:
    tenant = new_tenant()
    await fresh_log.write(tenant, *[an_entry(number) for number in range(3)])
    before = await fresh_log.verify(tenant)
    fresh_log.tamper("DELETE FROM audit_log WHERE tenant_id = :tenant AND sequence = 3", tenant=tenant)
    after = await fresh_log.verify(tenant)
    assert after.broken_at is None
    assert (after.records, after.head == before.head) == (2, False)


async def test_records_are_found_by_what_they_say(log: Log) -> None:
    tenant = new_tenant()
    await log.write(tenant, an_entry(1), an_entry(2, Action.MEMBER_ADDED), an_entry(3))
    async with log.database.unit_of_work(read_only=True) as unit:

        async def found(**wanted: Any) -> list[int]:
            records = await unit.audit.list(tenant, AuditFilter(**wanted), before_sequence=None, limit=10)
            return [record.sequence for record in records]

        assert await found() == [3, 2, 1]
        assert await found(action=Action.MEMBER_ADDED) == [2]
        assert await found(target_id="ten_3") == [3]
        assert await found(actor_id="usr_1") == [3, 2, 1]
        assert await found(actor_id="usr_2") == []
        [middle] = await unit.audit.list(tenant, AuditFilter(target_id="ten_2"), before_sequence=None, limit=1)
        assert await found(start=middle.at) == [3, 2]
        assert await found(end=middle.at) == [1]
        page = await unit.audit.list(tenant, AuditFilter(), before_sequence=3, limit=1)
        assert [record.sequence for record in page] == [2]
