"""Connections: one engine for each process, with a bound on every wait.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit is on the disk when it returns. Its writers take the write
lock when they begin, since a reader that turns writer half-way can be refused at once. PostgreSQL connections act as
the application's own role, which may not change the ledger, whoever they logged in as.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from backend.adapters.db.bounded_connection import BoundedConnection, connect
from backend.adapters.db.sqlite_connection import connect as connect_directly
from backend.adapters.db.sqlite_connection import put_off_unanswered
from backend.adapters.db.write_turns import FIRST, WRITES, WriteTurns, stand_in_line
from backend.domain.errors import Invalid, StoreUnavailable

APP_ROLE = "forecourt_app"
# Without recursive triggers REPLACE deletes rows past the trigger that keeps the ledger.
_SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "recursive_triggers=ON",
    "trusted_schema=OFF",
)
# InternalError: a server that has become a standby refuses every write. The drivers' own come from statements that go
# past the engine.
UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    InternalError,
    PoolTimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    sqlite3.OperationalError,
    sqlite3.InterfaceError,
    OSError,
    TimeoutError,
)


class UnsupportedDatabase(ValueError):
    """The URL names a database that this product does not run on."""


def parse_url(url: str) -> URL:
    """Read a database URL.

    Raises:
        UnsupportedDatabase: neither ``sqlite+aiosqlite`` nor ``postgresql+psycopg``.
    """
    scheme = urlsplit(url).scheme
    if scheme not in {"sqlite+aiosqlite", "postgresql+psycopg"}:
        raise UnsupportedDatabase("the database URL must begin with sqlite+aiosqlite:/// or postgresql+psycopg://")
    return make_url(url)


def open_engine(url: str, *, pool_size: int, timeout_s: float, turns: WriteTurns | None = None) -> AsyncEngine:
    """Return an engine, not yet connected.

    Args:
        url: of the database.
        pool_size: connections that are kept.
        timeout_s: bound on each wait: to connect, for the pool, for an answer.
        turns: the line of a SQLite file's writers, where another engine of this process writes to it too.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(
            parsed,
            pool_size=pool_size,
            pool_timeout=timeout_s,
            hide_parameters=True,
            connect_args={"async_creator_fn": connect_directly, "timeout": timeout_s},
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        stand_in_line(engine, turns or WriteTurns(timeout_s))
        put_off_unanswered(engine)
        return engine
    milliseconds = int(timeout_s * 1000)
    engine = create_async_engine(
        parsed,
        pool_size=pool_size,
        pool_timeout=timeout_s,
        # The values of a statement that failed have no place in a log: addresses, hashes, whatever callers sent.
        hide_parameters=True,
        pool_recycle=1800,
        connect_args={
            "async_creator_fn": partial(connect, timeout_s=timeout_s),
            "connect_timeout": max(1, int(timeout_s)),
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c timezone=UTC"
            f" -c idle_in_transaction_session_timeout={milliseconds * 5}",
        },
    )
    event.listen(engine.sync_engine, "connect", _take_app_role)
    event.listen(engine.sync_engine, "checkout", _leave_cut_connections)
    return engine


def for_writing(engine: AsyncEngine, *, first: bool = False) -> AsyncEngine:
    """Return the same engine whose transactions take SQLite's write lock as they begin, before others if ``first``."""
    return engine.execution_options(**{WRITES: FIRST if first else True})


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not open transactions of its own accord: _begin_sqlite does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _SQLITE_PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _take_app_role(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (APP_ROLE,))
    if cursor.fetchone():
        cursor.execute(f"SET ROLE {APP_ROLE}")
    cursor.close()
    connection.commit()


def _leave_cut_connections(
    connection: DBAPIConnection, _entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Take no connection out of the pool that the server has ended. A look at the socket, not a round trip."""
    driver: BoundedConnection = connection.driver_connection
    if driver.is_cut():
        raise DisconnectionError("the server has ended this connection")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn a store that does not answer into :class:`StoreUnavailable`; integrity errors pass as they are.

    Raises:
        StoreUnavailable: the store did not answer within its bound.
        Invalid: a value is none that the store can hold, such as text with a zero character in PostgreSQL.
    """
    try:
        yield
    except IntegrityError:
        raise
    except (DataError, psycopg.DataError) as error:
        raise Invalid("The request holds a value that cannot be stored.") from error
    except UNAVAILABLE as error:
        raise StoreUnavailable(retry_after_s=1) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise StoreUnavailable(retry_after_s=1) from error
        raise


def is_lost(error: BaseException | None) -> bool:
    """Whether an error means that the server cannot be reached, whoever asks: not a lock, nor one long statement.

    A SQLite file is never lost: what it refuses it refuses at once.
    """
    if isinstance(error, DBAPIError):
        return isinstance(error.orig, psycopg.Error) and (error.connection_invalidated or _says_lost(error.orig))
    return isinstance(error, TimeoutError) or (isinstance(error, psycopg.Error) and _says_lost(error))


def _says_lost(error: psycopg.Error) -> bool:
    # PostgreSQL names each refusal of its own by a code; class 57P is a server that ends, 53 one that is full.
    code = error.sqlstate
    return code is None or code.startswith(("08", "57P", "53"))


def violated_constraint(error: IntegrityError) -> str:
    """Return the name of the constraint, or on SQLite the ``table.column`` list, that was violated."""
    diagnostics: Any = getattr(error.orig, "diag", None)
    if diagnostics is not None:
        return str(diagnostics.constraint_name)
    return str(error.orig).partition(": ")[2]
