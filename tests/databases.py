"""Databases for tests: empty or migrated, on a SQLite file or on the run's PostgreSQL server, used from outside.

A migrated one is a copy of the first of its kind: hundreds of tests want one, and thirteen migrations take longer than
most of them. What migrations do is for ``tests/integration/test_migrations.py`` to show, on empty databases.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, pool, text

from backend.adapters.db.migrations import PROJECT, sync_url, upgrade

_numbers = itertools.count(1)


def alembic_config() -> Config:
    return Config(toml_file=PROJECT / "pyproject.toml")


def newest_revision() -> str:
    return str(ScriptDirectory.from_config(alembic_config()).get_current_head())


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database in a folder; the file is made by whoever connects first."""
    return f"sqlite+aiosqlite:///{folder / 'forecourt.db'}"


def migrated_sqlite(folder: Path) -> str:
    """Put a migrated database into a folder; return its URL."""
    url = sqlite_url(folder)
    bring_up_to_date(url)
    return url


def bring_up_to_date(url: str) -> None:
    """Migrate a database, or make its file if there is none yet."""
    database = sync_url(url)
    if database.get_backend_name() == "sqlite" and not Path(str(database.database)).exists():
        Path(str(database.database)).write_bytes(_migrated_file())
    else:
        upgrade(url)


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        upgrade(sqlite_url(Path(folder)))
        return (Path(folder) / "forecourt.db").read_bytes()


@contextmanager
def migrated_database(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Make a migrated database of the kind that a fixture's parameter names, ``sqlite`` or ``postgres``."""
    if request.param == "sqlite":
        yield migrated_sqlite(folder)
        return
    with postgres_database(request.getfixturevalue("postgres_url"), is_migrated=True) as url:
        yield url


@contextmanager
def postgres_database(server_url: str, *, is_migrated: bool = False) -> Iterator[str]:
    """Make a database next to the one of the URL, an empty one by default; drop it afterwards, whoever is in it."""
    base = server_url.rpartition("/")[0]
    name = f"forecourt_test_{os.getpid()}_{next(_numbers)}"
    make_postgres_database(base, name, is_migrated=is_migrated)
    try:
        yield f"{base}/{name}"
    finally:
        drop_postgres_database(base, name)


def make_postgres_database(base: str, name: str, *, is_migrated: bool = False) -> None:
    """Make a database on a server, whose URL is given without one."""
    like = f' TEMPLATE "{_template(base)}"' if is_migrated else ""
    with _maintenance(f"{base}/postgres") as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"{like}'))


def drop_postgres_database(base: str, name: str) -> None:
    """Drop a database if it is there, whoever is in it."""
    with _maintenance(f"{base}/postgres") as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


@cache
def _template(base: str) -> str:
    """Return the name of the one that is copied; ``drop_template`` when nobody needs it any more."""
    name = f"forecourt_test_{os.getpid()}_template"
    make_postgres_database(base, name)
    upgrade(f"{base}/{name}")
    return name


def drop_template(base: str) -> None:
    """Drop what migrated databases on a server were copied from."""
    drop_postgres_database(base, f"forecourt_test_{os.getpid()}_template")


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
