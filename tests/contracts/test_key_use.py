"""When keys were last used: noted in memory, written in one batch, on both databases."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, event

from backend.adapters.db.engine import open_engine
from backend.adapters.db.key_use import AT_A_TIME, BatchedKeyUse
from backend.adapters.db.unit_of_work import Database
from backend.domain.api_keys import ApiKey, PreviousSecret
from backend.domain.ids import KeyId, TenantId
from backend.domain.tenants import Tenant, TenantStatus
from tests.databases import migrated_database
from tests.fakes import FakeClock
from tests.keys import MADE_AT, a_key

pytestmark = pytest.mark.anyio

TENANT = TenantId("ten_1")
PATIENT_S = 30.0


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with migrated_database(request, tmp_path) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with two keys; the second one has been rotated."""
    database = Database(open_engine(database_url, pool_size=3, timeout_s=PATIENT_S))
    previous = PreviousSecret(
        secret_hash=b"old", pepper_version=1, valid_until=MADE_AT + timedelta(days=1), last_used_at=None
    )
    async with database.unit_of_work() as unit:
        tenant = Tenant(id=TENANT, slug="one", name="One", status=TenantStatus.ACTIVE, version=1, created_at=MADE_AT)
        await unit.tenants.add(tenant)
        await unit.api_keys.add(TENANT, a_key("plain"))
        await unit.api_keys.add(TENANT, a_key("rotated", generation=2, version=2, previous=previous))
    yield database
    await database.aclose()


async def stored(database: Database, lookup_id: str) -> ApiKey:
    async with database.unit_of_work(read_only=True) as unit:
        key = await unit.api_keys.by_lookup_id(TENANT, lookup_id)
    assert key is not None
    return key


async def test_the_newest_use_is_written_and_no_version_moves(database: Database, clock: FakeClock) -> None:
    use = BatchedKeyUse(database, clock)
    for _ in range(3):
        clock.advance(1)
        use.note(KeyId("key_plain"), 1)
    assert (await stored(database, "plain")).last_used_at is None, "nothing is written on anybody's way"
    assert await use.flush() == 1
    key = await stored(database, "plain")
    assert key.last_used_at == clock.now()
    assert key.version == 1
    assert await use.flush() == 0, "each use is written once"


async def test_the_secret_before_has_its_own_last_use(database: Database, clock: FakeClock) -> None:
    use = BatchedKeyUse(database, clock)
    use.note(KeyId("key_rotated"), 1)
    with_old = clock.now()
    clock.advance(1)
    use.note(KeyId("key_rotated"), 2)
    assert await use.flush() == 2
    key = await stored(database, "rotated")
    assert key.previous is not None
    assert (key.previous.last_used_at, key.last_used_at) == (with_old, clock.now())


async def test_a_late_batch_of_another_process_takes_nothing_back(database: Database, clock: FakeClock) -> None:
    early, late = BatchedKeyUse(database, clock), BatchedKeyUse(database, clock)
    early.note(KeyId("key_plain"), 1)
    clock.advance(1)
    late.note(KeyId("key_plain"), 1)
    await late.flush()
    await early.flush()
    assert (await stored(database, "plain")).last_used_at == clock.now()


async def test_a_key_that_is_gone_is_no_reason_to_lose_the_others(database: Database, clock: FakeClock) -> None:
    use = BatchedKeyUse(database, clock)
    for key_id in ("key_nobodys", "key_plain"):
        use.note(KeyId(key_id), 1)
    await use.flush()
    assert (await stored(database, "plain")).last_used_at == clock.now()


async def test_what_cannot_be_written_is_kept(database: Database, clock: FakeClock, tmp_path: Path) -> None:
    nowhere = Database(open_engine(f"sqlite+aiosqlite:///{tmp_path / 'none' / 'x.db'}", pool_size=2, timeout_s=0.5))
    use = BatchedKeyUse(nowhere, clock)
    use.note(KeyId("key_plain"), 1)
    assert await use.flush() == 0
    # The same notes, once the store answers again.
    use._engine = BatchedKeyUse(database, clock)._engine
    assert await use.flush() == 1
    assert (await stored(database, "plain")).last_used_at == datetime.fromtimestamp(clock.now_s(), UTC)
    await nowhere.aclose()


async def test_many_are_written_in_portions_and_those_that_were_not_are_kept(
    database: Database, clock: FakeClock
) -> None:
    portions: list[int] = []

    def lose_the_second(
        _connection: Connection, _cursor: object, _statement: str, rows: Sequence[object], _context: object, many: bool
    ) -> None:
        if many:
            portions.append(len(rows))
            if len(portions) == 2:
                raise OSError("the line is cut")

    event.listen(database.engine.sync_engine, "before_cursor_execute", lose_the_second)
    use = BatchedKeyUse(database, clock)
    key_ids = [f"key_{number}" for number in range(2 * AT_A_TIME)]
    for key_id in ("key_plain", *key_ids, "key_rotated"):
        use.note(KeyId(key_id), 2)
    assert await use.flush() == AT_A_TIME
    assert (await stored(database, "plain")).last_used_at == clock.now()
    assert (await stored(database, "rotated")).last_used_at is None
    assert await use.flush() == AT_A_TIME + 2
    assert (await stored(database, "rotated")).last_used_at == clock.now()
    assert portions == [AT_A_TIME, AT_A_TIME, AT_A_TIME, 2]
