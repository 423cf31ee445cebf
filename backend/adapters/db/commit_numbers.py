"""Keeps commit order when the books move to another PostgreSQL server.

Rows carry the number of the transaction that wrote them, and nothing is shown before every transaction with a lower
number has ended. A server that a dump is restored into counts its own transactions from the start: rows from before
would lie ahead of whatever it writes, hidden and never rolled up, until its count has passed theirs. So the offset that
is added to its numbers is raised beyond every number that is stored, by whoever migrates, before anybody serves.

A server that was copied file by file, by a base backup or ``pg_upgrade``, counts on, and needs none of this.
"""

from sqlalchemy import Connection, text

_KNOWS_OFFSETS = text("SELECT to_regprocedure('public.forecourt_transaction_offset()') IS NOT NULL")
_HIGHEST = text(
    """
    SELECT greatest(
        (SELECT max(commit_xid) FROM public.usage_events),
        (SELECT max(commit_xid) FROM public.usage_adjustments),
        (SELECT max(commit_xid) FROM public.period_closings),
        (SELECT max(xid) FROM public.usage_checkpoints),
        0)
    """
)
_NEXT = text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, public.forecourt_transaction_offset()")


def is_ahead(connection: Connection) -> bool:
    """Whether the books hold numbers that this server has not reached: it is another one than wrote them."""
    if not _applies(connection):
        return False
    # In this order: what is written in between has a number that the second answer knows.
    highest = _highest(connection)
    following, offset = connection.execute(_NEXT).one()
    return highest >= int(following) + int(offset)


def catch_up(connection: Connection) -> bool:
    """Let this server count on from where the last one was, where it has not; return whether that was necessary."""
    if not is_ahead(connection):
        return False
    offset = _highest(connection)
    connection.execute(
        text(
            "CREATE OR REPLACE FUNCTION public.forecourt_transaction_offset() RETURNS bigint "
            f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT {offset}::bigint'"
        )
    )
    return True


def _applies(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" and bool(connection.execute(_KNOWS_OFFSETS).scalar_one())


def _highest(connection: Connection) -> int:
    return int(connection.execute(_HIGHEST).scalar_one())
