"""How each database takes a batch of usage events: alone and at once, or within somebody's transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from psycopg.errors import UniqueViolation
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.direct_insert import DirectInsert
from backend.adapters.db.event_records import FIELDS, TYPE, as_record, as_records
from backend.adapters.db.prepared_statement import PreparedStatement
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.tables.columns import table_of
from backend.domain.usage import UsageEvent

Identity = tuple[str, str]
_TABLE = table_of(UsageEventRow)
_COLUMNS = [column for column in _TABLE.columns if not column.primary_key]
"""In the order of :func:`_values`. The position is the database's to give."""

identity_of = attrgetter("tenant_id", "id")
"""What is unique in the ledger."""


class InsertsOnPostgresql:
    """A batch is one array of records, in one round trip."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._statement = PreparedStatement(engine, _FROM_RECORDS, is_binary=True)
        self._type_number: int | None = None

    async def commit(self, events: Sequence[UsageEvent], stored_at: datetime) -> int | None:
        """Insert them and commit; ``None`` where an id is there already, and nothing is written.

        Hardly ever is one. To look for each before it is written, and to mark it as perhaps not to stay, costs the
        server a tenth of all it does.
        """
        number = self._type_number or await self._find_type()
        try:
            return await self._statement.run(as_records(events, stored_at, type_number=number))
        except UniqueViolation:
            return None

    def prepare(self, event: UsageEvent) -> None:
        """Spell an event, but for the instant in which it is stored."""
        object.__setattr__(event, "spelling", as_record(event))

    async def put(self, connection: AsyncConnection, events: Sequence[UsageEvent], stored_at: datetime) -> None:
        """Insert those whose id is not there yet."""
        await connection.execute(_ON_POSTGRESQL, _rows(events, stored_at))

    async def aclose(self) -> None:
        """Give the connections back that were kept for batches."""
        await self._statement.aclose()

    async def _find_type(self) -> int:
        async with self._engine.connect() as connection:
            number = int((await connection.execute(_TYPE_NUMBER, {"name": TYPE})).scalar_one())
        self._type_number = number
        return number


class InsertsOnSqlite:
    """A batch is the values of one statement, in one trip."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statement = DirectInsert(engine, _TABLE.name, [column.name for column in _COLUMNS])

    async def commit(self, events: Sequence[UsageEvent], stored_at: datetime) -> int | None:
        """As on PostgreSQL; ``None`` where a transaction has to be waited for, and nothing is written."""
        at = _as_text(stored_at)
        return await self._statement.run([_values(event, _as_text(event.occurred_at), at).values() for event in events])

    def prepare(self, event: UsageEvent) -> None:
        """Work out an event's fingerprint, which it keeps. The driver spells the rest."""
        event.fingerprint()

    async def put(self, connection: AsyncConnection, events: Sequence[UsageEvent], stored_at: datetime) -> None:
        """Insert those whose id is not there yet."""
        await connection.execute(_ON_SQLITE, _rows(events, stored_at))

    async def aclose(self) -> None:
        """Give the connections back that were kept for batches."""
        await self._statement.aclose()


def _values(event: UsageEvent, occurred_at: datetime | str, stored_at: datetime | str) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "tenant_id": event.tenant_id,
        "credential_id": event.credential_id,
        "environment": event.environment._value_,  # not through a descriptor of Python's, twice an event
        "model": event.model,
        "model_version": event.model_version,
        "units": event.units,
        "cached_units": event.cached_units,
        "billable_units": event.billable_units,
        "reason": event.reason._value_,
        "plan_id": event.plan_id,
        "plan_version": event.plan_version,
        "request_id": event.request_id,
        "occurred_at": occurred_at,
        "period": event.period,
        "fingerprint": event.fingerprint(),
        "stored_at": stored_at,
    }


def _as_text(instant: datetime) -> str:
    """Spell an instant as SQLAlchemy does on SQLite: in UTC, to the microsecond, without the zone."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _rows(events: Sequence[UsageEvent], stored_at: datetime) -> list[dict[str, Any]]:
    return [_values(event, event.occurred_at, stored_at) for event in events]


# One round trip that is its own transaction. A batch holds the events of whoever called meanwhile, so it has to see all
# tenants, and the statement says so itself.
_FROM_RECORDS = (
    "WITH seen AS MATERIALIZED (SELECT set_config('app.platform', 'on', true)) "  # noqa: S608  # the table's own names
    f"INSERT INTO usage_events ({FIELDS}) SELECT given.* FROM seen, unnest(CAST($1 AS {TYPE}[])) AS given"
)
_TYPE_NUMBER = text("SELECT CAST(CAST(:name AS regtype) AS oid)")
_ON_POSTGRESQL = postgresql_insert(UsageEventRow).on_conflict_do_nothing()
_ON_SQLITE = sqlite_insert(UsageEventRow).on_conflict_do_nothing()
