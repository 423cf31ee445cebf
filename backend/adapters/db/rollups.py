"""Folds the ledger into sums by the hour: by position, in one transaction with the checkpoint.

However many processes fold, one at a time does; whoever finds another at it does nothing. A transaction that is cut
off leaves sums and checkpoint as they were.
"""

from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from backend.adapters.db.commit_order import CommitOrder
from backend.adapters.db.engine import for_writing, translated_errors
from backend.adapters.db.row_security import show_all_tenants
from backend.adapters.db.tables import UsageCheckpointRow, UsageEventRow, UsageRollupRow
from backend.adapters.db.unit_of_work import Database
from backend.adapters.db.usage_sums import ROLLUPS
from backend.domain.usage import LedgerPosition

_NAMES = (
    "tenant_id",
    "hour",
    "period",
    "environment",
    "credential_id",
    "model",
    "model_version",
    "plan_id",
    "plan_version",
)
_SUMS = ("events", "units", "cached_units", "billable_units")

IN_ORDER = text("SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)")
"""For PostgreSQL, in a transaction that takes the next events. There is an index in their order, but what has just been
written is not in the planner's statistics: it expects too few to need an order, and reads and sorts all that wait."""


class SqlUsageRollups:
    """Keeps the roll-ups.

    Args:
        database: where the ledger is.
        batch_events: most events of one transaction; a writer on SQLite waits for it to end.
    """

    def __init__(self, database: Database, *, batch_events: int = 5_000) -> None:
        self._engine = for_writing(database.engine)
        self._is_sqlite = database.engine.dialect.name == "sqlite"
        self._order = CommitOrder("usage_events", is_sqlite=self._is_sqlite)
        self.batch_events = batch_events

    async def fold_of_all_tenants(self) -> int:
        """Fold the next events below the watermark; return how many. None are left, or another process folds: 0."""
        with translated_errors():
            async with self._engine.begin() as connection:
                await show_all_tenants(connection)
                if not self._is_sqlite:
                    await connection.execute(IN_ORDER)
                start = await self._held_checkpoint(connection)
                if start is None:
                    return 0
                end = await self._end(connection, start)
                if end is None:
                    return 0
                return await self._fold(connection, start, end)

    async def _held_checkpoint(self, connection: AsyncConnection) -> LedgerPosition | None:
        query = select(col(UsageCheckpointRow.xid), col(UsageCheckpointRow.row)).where(
            col(UsageCheckpointRow.name) == ROLLUPS
        )
        # SQLite holds its one write lock since the transaction began.
        found = (await connection.execute(query.with_for_update(skip_locked=True))).one_or_none()
        return None if found is None else LedgerPosition(int(found[0]), int(found[1]))

    async def _end(self, connection: AsyncConnection, start: LedgerPosition) -> LedgerPosition | None:
        """Return the last position of this batch; ``None`` when there is nothing below the watermark."""
        watermark = await self._order.watermark(connection)
        waiting = (
            select(self._order.transaction.label("xid"), self._order.row.label("row"))
            .where(self._order.after(start), self._order.before(watermark))
            .order_by(*self._order.columns)
            .limit(self.batch_events)
            .subquery()
        )
        last = select(waiting).order_by(waiting.c.xid.desc(), waiting.c.row.desc()).limit(1)
        found = (await connection.execute(last)).one_or_none()
        return None if found is None else LedgerPosition(int(found[0]), int(found[1]))

    async def _fold(self, connection: AsyncConnection, start: LedgerPosition, end: LedgerPosition) -> int:
        folded = self._order.after(start), self._order.up_to(end)
        hour = self._hour()
        keys = [hour if name == "hour" else getattr(UsageEventRow, name) for name in _NAMES]
        sums = [func.count(), *(func.sum(getattr(UsageEventRow, name)) for name in _SUMS[1:])]
        insert: Any = (sqlite_insert if self._is_sqlite else postgresql_insert)(UsageRollupRow)
        insert = insert.from_select([*_NAMES, *_SUMS], select(*keys, *sums).where(*folded).group_by(*keys))
        await connection.execute(
            insert.on_conflict_do_update(
                index_elements=_NAMES,
                set_={name: getattr(UsageRollupRow, name) + insert.excluded[name] for name in _SUMS},
            )
        )
        await connection.execute(
            update(UsageCheckpointRow)
            .where(col(UsageCheckpointRow.name) == ROLLUPS)
            .values(xid=end.transaction, row=end.row)
        )
        return int(await connection.scalar(select(func.count()).select_from(UsageEventRow).where(*folded)) or 0)

    def _hour(self) -> ColumnElement[Any]:
        if self._is_sqlite:
            # As SQLAlchemy writes an instant there.
            return func.strftime("%Y-%m-%d %H:00:00.000000", col(UsageEventRow.occurred_at))
        return func.date_trunc(literal_column("'hour'"), col(UsageEventRow.occurred_at), literal_column("'UTC'"))
