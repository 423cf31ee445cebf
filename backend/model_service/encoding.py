"""From a request's rows to typed values, before any queue.

A model's encoder is made once from its manifest. Each row may be a list in feature order or an object by
feature name; both become one tuple with one spelling, so that 5 and 5.0, -0.0 and 0.0, named and positional
are the same row to a cache. Rows that fit take a short path; a row that does not is read again, slowly, to
say what is wrong where.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from math import hypot
from operator import itemgetter
from typing import Any, Final, TypeAlias

import orjson

from backend.domain.errors import FieldError, SchemaMismatch
from backend.domain.models import Feature, FeatureType
from backend.model_service.manifest import Row
from backend.model_service.values import Read, WrongValue, reader

MAX_ERRORS: Final = 20
DEFAULT_MAX_ROWS: Final = 1_000
DEFAULT_MAX_TEXT_CHARACTERS: Final = 10_000

_Cells: TypeAlias = Sequence[object]
_FLOATS: Final = frozenset({float})
_NUMBERS: Final = frozenset({float, int})
_MAX_FLOAT: Final = sys.float_info.max


class TypedRows:
    """Rows of one request that fit one model."""

    __slots__ = ("_canonical", "count", "encoder", "rows")

    def __init__(self, encoder: "RowEncoder", rows: list[Row]) -> None:
        self.encoder = encoder
        self.rows = rows
        self.count = len(rows)
        """How many rows there are."""
        self._canonical: list[bytes] | None = None

    def canonical(self, index: int) -> bytes:
        """Return the one spelling of a row: a JSON array of its values in feature order."""
        if self._canonical is None:
            self._canonical = [orjson.dumps(row) for row in self.rows]
        return self._canonical[index]


class RowEncoder:
    """Checks rows against a model's inputs."""

    def __init__(
        self,
        inputs: Sequence[Feature],
        *,
        max_rows: int = DEFAULT_MAX_ROWS,
        max_text_characters: int = DEFAULT_MAX_TEXT_CHARACTERS,
    ) -> None:
        self._max_rows = max_rows
        self._names = tuple(feature.name for feature in inputs)
        self._tokens = tuple(_escape(name) for name in self._names)
        self._width = len(inputs)
        self._readers = tuple(reader(feature, max_text_characters) for feature in inputs)
        self._pick = _picker(self._names)
        # Of the smallest limit; the length of a row is no less than any of its numbers.
        self._limit = min((feature.limit for feature in inputs if feature.limit is not None), default=_MAX_FLOAT)
        plain = all(feature.type is FeatureType.FLOAT and feature.categories is None for feature in inputs)
        self._fit: Callable[[_Cells], Row | None] = self._fit_floats if plain else self._fit_readers

    def encode(self, inputs: Sequence[object]) -> TypedRows:
        """Check rows.

        Raises:
            SchemaMismatch: pointing at each wrong place, at most :data:`MAX_ERRORS` of them.
        """
        if not isinstance(inputs, list | tuple):
            raise _mismatch("/inputs", "Must be an array of rows.")
        if not inputs:
            raise _mismatch("/inputs", "Must hold at least one row.")
        if len(inputs) > self._max_rows:
            raise _mismatch("/inputs", f"Must hold at most {self._max_rows} rows.")
        rows: list[Row] = []
        errors: list[FieldError] = []
        for index, item in enumerate(inputs):
            row = self._read(item)
            if row is not None:
                rows.append(row)
                continue
            for error in self._faults(item, f"/inputs/{index}"):
                errors.append(error)
                if len(errors) == MAX_ERRORS:
                    raise SchemaMismatch(errors=tuple(errors))
        if errors:
            raise SchemaMismatch(errors=tuple(errors))
        return TypedRows(self, rows)

    def _read(self, item: object) -> Row | None:
        """The short path: the row, or None where it does not fit in any way."""
        if type(item) is dict:
            if len(item) != self._width:
                return None
            try:
                return self._fit(self._pick(item))
            except KeyError:
                return None
        if isinstance(item, list | tuple):
            return self._fit(item) if len(item) == self._width else None
        return None

    def _fit_floats(self, cells: _Cells) -> Row | None:
        """All features are floats: look at the set of types, and at the length for NaN and what is too large."""
        kinds = set(map(type, cells))
        if kinds == _FLOATS or kinds <= _NUMBERS:
            numbers: Sequence[Any] = cells
            try:
                row = tuple([number + 0.0 for number in numbers])  # -0.0 becomes 0.0, an int becomes a float
            except OverflowError:
                return None
            if hypot(*row) <= self._limit:
                return row
        # A null, a wrong value, or numbers that are too large, if only together: one by one.
        return self._fit_readers(cells)

    def _fit_readers(self, cells: _Cells) -> Row | None:
        try:
            return tuple([read(cell) for read, cell in zip(self._readers, cells, strict=True)])
        except WrongValue:
            return None

    def _faults(self, item: object, pointer: str) -> Iterator[FieldError]:
        """Say what is wrong with a row that the short path did not take."""
        if isinstance(item, dict):
            if item.keys() - set(self._names):
                # The name is the caller's own text, so it is not repeated.
                yield FieldError(pointer, "Holds a feature that the model does not have.")
            for name, token, read in zip(self._names, self._tokens, self._readers, strict=True):
                if name in item:
                    yield from _fault(read, item[name], f"{pointer}/{token}")
                else:
                    yield FieldError(f"{pointer}/{token}", "Is missing.")
        elif not isinstance(item, list | tuple):
            yield FieldError(pointer, "Must be an array of values, or an object by feature name.")
        elif len(item) != self._width:
            yield FieldError(pointer, f"Must hold exactly {self._width} values.")
        else:
            for place, (read, cell) in enumerate(zip(self._readers, item, strict=True)):
                yield from _fault(read, cell, f"{pointer}/{place}")


def _fault(read: Read, value: object, pointer: str) -> Iterator[FieldError]:
    try:
        read(value)
    except WrongValue as error:
        yield FieldError(pointer, str(error))


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, object]], _Cells]:
    pick = itemgetter(*names)
    # itemgetter of one name returns the value itself, of several a tuple.
    return pick if len(names) > 1 else lambda row: (pick(row),)


def _escape(name: str) -> str:
    """Spell a name as a reference token of a JSON pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def _mismatch(pointer: str, detail: str) -> SchemaMismatch:
    return SchemaMismatch(errors=(FieldError(pointer, detail),))
