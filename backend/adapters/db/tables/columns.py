"""Column types that mean the same on both dialects."""

from datetime import UTC, datetime
from typing import cast

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, Table
from sqlalchemy.types import TypeDecorator
from sqlmodel import SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """Instants: aware on both sides. SQLite keeps no zone, so UTC is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store UTC; a naive instant is a bug and is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the store")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware instant in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def table_of(row: type[SQLModel]) -> Table:
    """Return the table behind a row's class, for statements that need no entities."""
    return cast("Table", row.__table__)  # type: ignore[attr-defined]


NullableJson = JSON(none_as_null=True)
# SQLite fills only an INTEGER PRIMARY KEY by itself.
RowNumber = BigInteger().with_variant(Integer, "sqlite")
