"""How PostgreSQL runs the statements that the product sends: taken down as they are sent, and explained afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, TextClause, event, text
from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement as the driver got it."""

    statement: str
    parameters: Any


@contextmanager
def taken_down(engine: AsyncEngine, table: str) -> Iterator[list[Sent]]:
    """Take down what is read from a table while the block runs."""
    found: list[Sent] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if table in statement and statement.lstrip(" (\n").startswith(("SELECT", "WITH", "INSERT INTO usage_rollups")):
            found.append(Sent(statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


def explained(connection: Connection, sent: Sent, *before: TextClause) -> dict[str, Any]:
    """Run a statement for its plan, as the application that sees every tenant; what it changes is lost.

    ``before`` is what its transaction says first.
    """
    with connection.begin_nested() as attempt:
        for statement in before:
            connection.execute(statement)
        connection.execute(text("SELECT set_config('app.platform', 'on', true)"))
        connection.execute(text("SET LOCAL ROLE forecourt_app"))
        plan = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sent.statement}", sent.parameters
        ).scalar_one()
        attempt.rollback()
    found = plan if isinstance(plan, list) else orjson.loads(plan)
    return dict(found[0])


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's steps."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def rows_read(node: dict[str, Any]) -> int:
    """Return how many rows a step looked at."""
    per_loop = sum(int(node.get(name, 0)) for name in ("Actual Rows", "Rows Removed by Filter"))
    return per_loop * int(node.get("Actual Loops", 1))
