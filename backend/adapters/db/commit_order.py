"""Commit order in SQL: positions, and the watermark below which nothing can still appear (LEDGER.md R6)."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, func, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from backend.domain.usage import LedgerPosition

OLDEST_RUNNING: ColumnElement[int] = literal_column("forecourt_oldest_transaction()", BigInteger)
"""The oldest transaction that may still write. Numbered as rows are: a server that the books were moved to counts on
from where the last one was (migration 0013)."""


class CommitOrder:
    """The order of a table that carries ``position``, and on PostgreSQL ``commit_xid``.

    SQLite commits one writer at a time, so there the row number alone is commit order.
    """

    def __init__(self, table: str, *, is_sqlite: bool) -> None:
        self._table = SQLModel.metadata.tables[table]
        self._is_sqlite = is_sqlite
        self.row: ColumnElement[int] = self._table.columns.position
        self.transaction: ColumnElement[int] = literal_column("0" if is_sqlite else f"{table}.commit_xid", BigInteger)

    @property
    def columns(self) -> tuple[ColumnElement[Any], ...]:
        """What to order by."""
        return (self.row,) if self._is_sqlite else (self.transaction, self.row)

    def after(self, position: LedgerPosition) -> ColumnElement[bool]:
        """Rows past a position."""
        return tuple_(*self.columns) > self._place(position)

    def before(self, position: LedgerPosition) -> ColumnElement[bool]:
        """Rows below a position."""
        return tuple_(*self.columns) < self._place(position)

    def up_to(self, position: LedgerPosition) -> ColumnElement[bool]:
        """Rows below a position, and the one at it."""
        return tuple_(*self.columns) <= self._place(position)

    def beyond(self, xid: ColumnElement[Any], row: ColumnElement[Any]) -> ColumnElement[bool]:
        """Rows past a position that the same statement reads."""
        return self.row > row if self._is_sqlite else tuple_(*self.columns) > tuple_(xid, row)

    def within(self, xid: ColumnElement[Any], row: ColumnElement[Any]) -> ColumnElement[bool]:
        """Rows up to a position that the same statement reads."""
        return self.row <= row if self._is_sqlite else tuple_(*self.columns) <= tuple_(xid, row)

    def _place(self, position: LedgerPosition) -> ColumnElement[Any]:
        return tuple_(position.row) if self._is_sqlite else tuple_(position.transaction, position.row)

    async def watermark(self, connection: AsyncConnection) -> LedgerPosition:
        """Return the position below which nothing can still appear."""
        if self._is_sqlite:
            newest = await connection.scalar(select(func.max(self.row)))
            return LedgerPosition(0, (newest or 0) + 1)
        oldest_running = await connection.scalar(select(OLDEST_RUNNING))
        return LedgerPosition(int(oldest_running or 0), 0)
