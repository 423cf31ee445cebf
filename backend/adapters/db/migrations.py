"""Brings a database to the version that this code needs, and says clearly when it cannot."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from alembic import command
from backend.adapters.db.commit_numbers import catch_up, is_ahead
from backend.adapters.db.engine import parse_url

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[3]
# Any number will do, as long as every process takes the same: it names the lock that one migration holds.
_ADVISORY_LOCK = 0x464F5245434F5552

LEDGER_PARTITION = re.compile(r"usage_events_(\d{4}_\d{2}|other)\b")
"""The ledger's months on PostgreSQL, which come and go while the service runs."""


class DatabaseUnusable(Exception):
    """The database cannot be read, or was written by a newer version of this product."""


def sync_url(url: str) -> URL:
    """Return the URL for Alembic, which works synchronously."""
    parsed = parse_url(url)
    return parsed.set(drivername="sqlite") if parsed.get_backend_name() == "sqlite" else parsed


def upgrade(url: str) -> tuple[str | None, str]:
    """Migrate to the newest revision; return the revision before and after. Safe to run from several processes.

    Raises:
        DatabaseUnusable: the database cannot be opened, or is newer than this code.
    """
    config = _config()
    with _connected(url) as connection:
        before = _known_revision(connection, config)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if catch_up(connection):
            log.warning("the database was restored into another server: its commit order goes on from where it was")
        after = MigrationContext.configure(connection).get_current_revision()
    return before, str(after)


def require_current(url: str) -> None:
    """Check that the database is at the revision this code needs.

    Raises:
        DatabaseUnusable: it cannot be opened, is older or newer, or was restored into another server.
    """
    config = _config()
    with _connected(url) as connection:
        revision = _known_revision(connection, config)
        is_elsewhere = is_ahead(connection)
    head = ScriptDirectory.from_config(config).get_current_head()
    if revision != head:
        raise DatabaseUnusable(
            f"the database is at revision {revision}, this version needs {head}: run `forecourt migrate`"
        )
    if is_elsewhere:
        raise DatabaseUnusable(
            "the database was restored into another server: run `forecourt migrate` before it serves"
        )


def _config() -> Config:
    return Config(toml_file=PROJECT / "pyproject.toml")


def _known_revision(connection: Connection, config: Config) -> str | None:
    revision = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseUnusable(f"the database is at revision {revision}, which is newer than this version of forecourt")
    return revision


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(sync_url(url), poolclass=pool.NullPool)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
                # The tables' owner is held to row-level security too: a migration is about everybody's rows.
                connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
            else:
                _prefer_wal(connection)
                # Takes the write lock at once, so that a second migration waits instead of failing half-way.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
    except DBAPIError as error:
        raise DatabaseUnusable(f"the database cannot be used: {_first_line(error)}") from error
    finally:
        engine.dispose()


def _prefer_wal(connection: Connection) -> None:
    """Put the file into WAL mode, where it stays: the application's first connections might find it locked."""
    with suppress(OperationalError):  # locked: another migration has it, and has done this
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0]
