"""How each database reads a key with all that applies to it: one statement, one trip, on connections that are kept.

Every prediction with a key that was not read lately waits for this, so it goes past the engine: to make entities of
rows, to ask a pool, to begin and to end a transaction takes ten times as long as all that is left here.
"""

import asyncio
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol, cast

from sqlalchemy import Dialect, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from backend.adapters.db.prepared_statement import PreparedStatement
from backend.adapters.db.sqlite_connection import DirectConnection
from backend.adapters.db.subscriptions import holds_at
from backend.adapters.db.tables import ApiKeyRow, SubscriptionRow, TenantRow
from backend.adapters.db.tables.columns import UtcDateTime, table_of

AT_ONCE = 4
"""Connections to PostgreSQL that are kept for reads of keys, out of the pool's; each answers thousands a second."""

_KEYS, _TENANTS, _SUBSCRIPTIONS = table_of(ApiKeyRow), table_of(TenantRow), table_of(SubscriptionRow)
_COLUMNS = (
    *_KEYS.columns,
    _TENANTS.c.status.label("tenant_status"),
    _TENANTS.c.version.label("tenant_version"),
    _TENANTS.c.lowered_limits,
    _SUBSCRIPTIONS.c.plan_id,
    _SUBSCRIPTIONS.c.ended_at.label("plan_ends_at"),
    _SUBSCRIPTIONS.c.enforcement,
)
_READ = (
    select(*_COLUMNS)
    .join_from(_KEYS, _TENANTS, _TENANTS.c.id == _KEYS.c.tenant_id)
    .join(_SUBSCRIPTIONS, _SUBSCRIPTIONS.c.tenant_id == _TENANTS.c.id)
    .where(_KEYS.c.lookup_id == bindparam("lookup_id"))
    .where(*holds_at(bindparam("at", type_=UtcDateTime)))
)

FoundKey = namedtuple("FoundKey", [column.name for column in _COLUMNS])  # type: ignore[misc]  # noqa: PYI024  # the table's own
"""The columns of ``ApiKeyRow``, then what applies to its tenant."""


class KeyReads(Protocol):
    """Reads keys, whoever's they are."""

    async def one(self, lookup_id: str, at: datetime) -> Any:
        """Return the :class:`FoundKey` of that id with the subscription that holds at an instant, or ``None``."""
        ...

    async def aclose(self) -> None:
        """Give the connections back that were kept."""
        ...


def open_reads(engine: AsyncEngine) -> KeyReads:
    """Return the reads of an engine's database, not yet connected."""
    return ReadsOnSqlite(engine) if engine.dialect.name == "sqlite" else ReadsOnPostgresql(engine)


class ReadsOnPostgresql:
    """A prepared statement, which says itself that it sees all tenants: only the key says which one it is of."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statement = PreparedStatement(engine, _ON_POSTGRESQL, at_once=AT_ONCE)
        self._decoders = _decoders(engine.dialect)

    async def one(self, lookup_id: str, at: datetime) -> Any:
        """As ``KeyReads.one``."""
        return _only(await self._statement.fetch(lookup_id.encode(), at.isoformat().encode()), self._decoders)

    async def aclose(self) -> None:
        """Give the connections back that were kept."""
        await self._statement.aclose()


class ReadsOnSqlite:
    """One connection is enough: its thread answers faster than the event loop can ask."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._decoders = _decoders(engine.dialect)
        self._spelled = UtcDateTime().dialect_impl(engine.dialect).bind_processor(engine.dialect)
        self._opening = asyncio.Lock()
        self._kept: tuple[AsyncConnection, DirectConnection] | None = None

    async def one(self, lookup_id: str, at: datetime) -> Any:
        """As ``KeyReads.one``."""
        _, driver = self._kept or await self._opened()
        asked = {"lookup_id": lookup_id, "at": at if self._spelled is None else self._spelled(at)}
        return _only(await driver.send(partial(_fetched, asked)), self._decoders)

    async def aclose(self) -> None:
        """Give the connection back."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept[0].close()

    async def _opened(self) -> tuple[AsyncConnection, DirectConnection]:
        async with self._opening:
            if self._kept is None:
                connection = await self._engine.connect()
                raw = await connection.get_raw_connection()
                self._kept = connection, cast("DirectConnection", raw.driver_connection)
            return self._kept


def _decoders(dialect: Dialect) -> list[tuple[int, Callable[[Any], Any]]]:
    """Return what SQLAlchemy does to the driver's values, by their place in a row."""
    made = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in _COLUMNS]
    return [(place, decode) for place, decode in enumerate(made) if decode is not None]


def _only(rows: Sequence[Sequence[Any]], decoders: list[tuple[int, Callable[[Any], Any]]]) -> Any:
    if not rows:
        return None
    # A tenant is on one plan at a time: to choose here would hide that it is on two.
    [row] = rows
    values = list(row)
    for place, decode in decoders:
        values[place] = decode(values[place])
    return FoundKey(*values)


def _fetched(asked: dict[str, Any], connection: sqlite3.Connection) -> list[Any]:
    return connection.execute(_ON_SQLITE, asked).fetchall()


def _on_postgresql() -> str:
    """Return the statement with ``$1`` for the id and ``$2`` for the instant.

    Rows may only be looked for once it is set that they may be seen. What else is joined PostgreSQL reads in any order;
    a ``LATERAL`` that needs the setting's value, and that ``OFFSET`` keeps whole, comes after it.
    """
    dialect = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    read = f"{_READ.compile(dialect=dialect)} AND seen.state = 'on' OFFSET 0"
    return (
        "WITH seen AS MATERIALIZED (SELECT set_config('app.platform', 'on', true) AS state) "  # noqa: S608  # no values
        f"SELECT found.* FROM seen CROSS JOIN LATERAL ({read}) AS found"
    )


_ON_POSTGRESQL = _on_postgresql()
_ON_SQLITE = str(_READ.compile(dialect=sqlite.dialect(paramstyle="named")))
