"""Databases for tests: empty or migrated, on a SQLite file or on the run's PostgreSQL server, used from outside."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, pool, text

from backend.adapters.db.migrations import PROJECT, sync_url

_numbers = itertools.count(1)


def alembic_config() -> Config:
    return Config(toml_file=PROJECT / "pyproject.toml")


def newest_revision() -> str:
    return str(ScriptDirectory.from_config(alembic_config()).get_current_head())


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database in a folder; the file is made by whoever connects first."""
    return f"sqlite+aiosqlite:///{folder / 'forecourt.db'}"


@contextmanager
def postgres_database(server_url: str) -> Iterator[str]:
    """Make an empty database next to the one of the URL; drop it afterwards, whoever is still in it."""
    name = f"forecourt_test_{os.getpid()}_{next(_numbers)}"
    with _maintenance(server_url) as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    try:
        yield f"{server_url.rpartition('/')[0]}/{name}"
    finally:
        with _maintenance(server_url) as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """Open a connection of somebody else's: the tables' owner, not the application. What is not committed is lost."""
    engine = create_engine(sync_url(url), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def writers_held_off(url: str) -> Iterator[None]:
    """Hold the lock that every writer of the ledger needs; readers go on."""
    with connected(url) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("LOCK TABLE usage_events IN EXCLUSIVE MODE"))
        yield
        connection.rollback()


@contextmanager
def postgres_cut_off(url: str) -> Iterator[None]:
    """Throw everybody out of a PostgreSQL database and let nobody in."""
    base, _, name = url.rpartition("/")
    with _maintenance(f"{base}/postgres") as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
        connection.execute(
            text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        try:
            yield
        finally:
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))


@contextmanager
def _maintenance(url: str) -> Iterator[Connection]:
    with connected(url) as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")
