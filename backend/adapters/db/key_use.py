"""When keys were last used: noted in memory at each request, written in batches now and then.

A crash loses at most the notes of one interval: they inform people, nothing depends on them. Writing them changes no
key's version, so no cached key is read again because of it.
"""

import logging
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Integer, bindparam, case, or_, true, update
from sqlalchemy.exc import SQLAlchemyError

from backend.adapters.db.engine import for_writing
from backend.adapters.db.row_security import show_all_tenants
from backend.adapters.db.tables import ApiKeyRow, UtcDateTime
from backend.adapters.db.unit_of_work import Database
from backend.domain.clock import Clock
from backend.domain.ids import KeyId

log = logging.getLogger(__name__)

AT_A_TIME = 200
"""Uses that one transaction writes. The statements of one are made without a pause, and predictions wait meanwhile."""

_KEYS = ApiKeyRow.metadata.tables["api_keys"].columns
_AT = bindparam("used_at", type_=UtcDateTime())


def _newer(name: str, condition: ColumnElement[bool]) -> ColumnElement[datetime | None]:
    """Return the new value of a column: the noted instant where it is the newer one, and the condition holds."""
    column = _KEYS[name]
    return case((condition & or_(column.is_(None), column < _AT), _AT), else_=column)


# Two processes write the same keys: the newest instant stays, whichever comes last.
_WRITE = (
    update(ApiKeyRow.metadata.tables["api_keys"])
    .where(_KEYS.id == bindparam("key_id"))
    .values(
        last_used_at=_newer("last_used_at", true()),
        previous_last_used_at=_newer(
            "previous_last_used_at", _KEYS.generation == bindparam("key_generation", type_=Integer) + 1
        ),
    )
)


class BatchedKeyUse:
    """Implements ``KeyUse``: the newest use of each key and generation, until the next batch."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._engine = for_writing(database.engine)
        self._clock = clock
        self._notes: dict[tuple[KeyId, int], float] = {}

    def note(self, key_id: KeyId, generation: int) -> None:
        """Note that a key is used now, with its secret of that generation."""
        self._notes[key_id, generation] = self._clock.now_s()

    async def flush(self) -> int:
        """Write what was noted since the last time; return how many uses. What cannot be written is kept."""
        notes, self._notes = list(self._notes.items()), {}
        written = 0
        try:
            while written < len(notes):
                portion = notes[written : written + AT_A_TIME]
                await self._write(portion)
                written += len(portion)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("last uses could not be written", extra={"cause": type(error).__name__})
            self._notes = dict(notes[written:]) | self._notes
        return written

    async def _write(self, notes: list[tuple[tuple[KeyId, int], float]]) -> None:
        # In one order for all processes: two portions then wait for each other, and never deadlock.
        rows = [
            {"key_id": key_id, "key_generation": generation, "used_at": datetime.fromtimestamp(at_s, UTC)}
            for (key_id, generation), at_s in sorted(notes)
        ]
        async with self._engine.begin() as connection:
            await show_all_tenants(connection)
            await connection.execute(_WRITE, rows)
