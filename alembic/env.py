"""Runs the migrations: on the connection that `forecourt migrate` hands over, or on the configured database."""

from sqlalchemy import create_engine, pool

from alembic import context
from backend.adapters.db import tables
from backend.adapters.db.migrations import sync_url
from backend.settings import Settings

# Importing the tables is what fills the metadata.
METADATA = tables.UsageEventRow.metadata


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(url=sync_url(Settings().migration_url), target_metadata=METADATA, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Run on the handed-over connection, or on one of our own."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        context.configure(connection=connection, target_metadata=METADATA)
        with context.begin_transaction():
            context.run_migrations()
        return
    engine = create_engine(sync_url(Settings().migration_url), poolclass=pool.NullPool)
    with engine.begin() as own:
        context.configure(connection=own, target_metadata=METADATA)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
