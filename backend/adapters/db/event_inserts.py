"""How each database takes a batch of usage events: alone and at once, or within somebody's transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.direct_insert import DirectInsert
from backend.adapters.db.prepared_statement import PreparedStatement
from backend.adapters.db.tables import UsageEventRow
from backend.adapters.db.tables.columns import table_of
from backend.domain.records import record
from backend.domain.usage import UsageEvent

Identity = tuple[str, str]
_TABLE = table_of(UsageEventRow)
_COLUMNS = [column for column in _TABLE.columns if not column.primary_key]
"""In the order of :func:`_values`. The position is the database's to give."""


@record(frozen=True, slots=True)
class Entry:
    """An event on its way into the ledger."""

    event: UsageEvent
    fingerprint: bytes

    @property
    def identity(self) -> Identity:
        """What is unique in the ledger."""
        return self.event.tenant_id, self.event.id


by_identity = attrgetter("event.tenant_id", "event.id")
"""The same, to sort by."""


class InsertsOnPostgresql:
    """A batch is one JSON document, in one round trip."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statement = PreparedStatement(engine, _FROM_DOCUMENT)

    async def commit(self, entries: Sequence[Entry], stored_at: datetime) -> int:
        """Insert those whose id is not there yet, and commit; return how many they were."""
        return await self._statement.run(_document(entries, stored_at))

    async def put(self, connection: AsyncConnection, entries: Sequence[Entry], stored_at: datetime) -> None:
        """Insert those whose id is not there yet."""
        await connection.execute(_ON_POSTGRESQL, {"events": _document(entries, stored_at).decode()})

    async def aclose(self) -> None:
        """Give the connections back that were kept for batches."""
        await self._statement.aclose()


class InsertsOnSqlite:
    """A batch is the values of one statement, in one trip."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statement = DirectInsert(engine, _TABLE.name, [column.name for column in _COLUMNS])

    async def commit(self, entries: Sequence[Entry], stored_at: datetime) -> int | None:
        """As on PostgreSQL; ``None`` where a transaction has to be waited for, and nothing is written."""
        at = _as_text(stored_at)
        return await self._statement.run(
            [
                _values(entry.event, entry.fingerprint, _as_text(entry.event.occurred_at), at).values()
                for entry in entries
            ]
        )

    async def put(self, connection: AsyncConnection, entries: Sequence[Entry], stored_at: datetime) -> None:
        """Insert those whose id is not there yet."""
        rows = [_values(entry.event, entry.fingerprint, entry.event.occurred_at, stored_at) for entry in entries]
        await connection.execute(_ON_SQLITE, rows)

    async def aclose(self) -> None:
        """Give the connections back that were kept for batches."""
        await self._statement.aclose()


def _values(
    event: UsageEvent, fingerprint: bytes | str, occurred_at: datetime | str, stored_at: datetime | str
) -> dict[str, Any]:
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
        "fingerprint": fingerprint,
        "stored_at": stored_at,
    }


def _as_text(instant: datetime) -> str:
    """Spell an instant as SQLAlchemy does on SQLite: in UTC, to the microsecond, without the zone."""
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _document(entries: Sequence[Entry], stored_at: datetime) -> bytes:
    """Return events as PostgreSQL takes them: one JSON document, with a ``bytea`` in hexadecimal."""
    return orjson.dumps(
        [_values(entry.event, f"\\x{entry.fingerprint.hex()}", entry.event.occurred_at, stored_at) for entry in entries]
    )


def _from_document(parameter: str) -> str:
    """Return the statement that takes a batch as one JSON document, in one round trip that is its own transaction.

    A parameter per value would cost ten times as much, and more than all the rest of a prediction. A batch holds the
    events of whoever called meanwhile, so it has to see all tenants, and the statement says so itself.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    names = ", ".join(column.name for column in _COLUMNS)
    typed = ", ".join(f"{column.name} {column.type.compile(dialect)}" for column in _COLUMNS)
    return (
        "WITH seen AS MATERIALIZED (SELECT set_config('app.platform', 'on', true)) "  # noqa: S608  # the table's own names
        f"INSERT INTO usage_events ({names}) SELECT {names} "
        f"FROM seen, json_to_recordset(CAST({parameter} AS json)) AS given({typed}) ON CONFLICT DO NOTHING"
    )


_FROM_DOCUMENT = _from_document("$1")
_ON_POSTGRESQL = text(_from_document(":events"))
_ON_SQLITE = sqlite_insert(UsageEventRow).on_conflict_do_nothing()
