"""One reader per feature, made once: it takes a JSON value and returns the one spelling the model gets, or
refuses it.

A sentence of refusal is a constant: it never holds the caller's value.
"""

from collections.abc import Callable
from math import isfinite
from typing import Final, TypeAlias, cast

from backend.domain.models import Feature, FeatureType
from backend.model_service.manifest import Scalar

Read: TypeAlias = Callable[[object], Scalar]

# What an int64 column holds; orjson, which spells the canonical row, ends there as well.
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1


class WrongValue(ValueError):
    """A value does not fit its feature; the text is the detail for the caller."""


def reader(feature: Feature, max_text_characters: int) -> Read:
    """Make the reader of a feature."""
    read = _typed(feature.type, max_text_characters)
    if feature.limit is not None and feature.type in {FeatureType.FLOAT, FeatureType.INTEGER}:
        read = _within(read, feature.limit)
    if feature.categories is not None:
        read = _one_of(read, frozenset(category(text, feature.type) for text in feature.categories))
    return _or_null(read) if feature.nullable else read


def category(text: str, kind: FeatureType) -> Scalar:
    """Return a category, which a manifest spells as text, as a value of its feature's type."""
    if kind is FeatureType.STRING:
        return text
    if kind is FeatureType.BOOLEAN:
        return text == "true"
    return int(text) if kind is FeatureType.INTEGER else float(text)


def category_text(value: Scalar) -> str:
    """Return a category as a manifest spells it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _typed(kind: FeatureType, max_text_characters: int) -> Read:
    if kind is FeatureType.STRING:
        return _text(max_text_characters)
    return {FeatureType.FLOAT: _float, FeatureType.INTEGER: _integer, FeatureType.BOOLEAN: _boolean}[kind]


def _float(value: object) -> Scalar:
    # Exact types throughout: true is an int to isinstance, and is not a number here.
    if type(value) is float:
        if not isfinite(value):
            raise WrongValue("Must be a finite number.")
        return value + 0.0  # turns -0.0 into 0.0
    if type(value) is int:
        try:
            return value + 0.0
        except OverflowError:
            raise WrongValue("Is too large.") from None
    raise WrongValue("Must not be null." if value is None else "Must be a number.")


def _integer(value: object) -> Scalar:
    if type(value) is float and value.is_integer():
        # 3.0 is an integer in JSON Schema, and many clients cannot write 3.
        value = int(value)
    if type(value) is int:
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise WrongValue("Is too large.")
        return value
    raise WrongValue("Must not be null." if value is None else "Must be an integer.")


def _boolean(value: object) -> Scalar:
    if type(value) is bool:
        return value
    raise WrongValue("Must not be null." if value is None else "Must be true or false.")


def _text(max_characters: int) -> Read:
    too_long = f"Is longer than {max_characters} characters."

    def read(value: object) -> Scalar:
        if type(value) is not str:
            raise WrongValue("Must not be null." if value is None else "Must be a string.")
        if len(value) > max_characters:
            raise WrongValue(too_long)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise WrongValue("Is not valid Unicode text.")
        return value

    return read


def _within(read: Read, limit: float) -> Read:
    def read_within(value: object) -> Scalar:
        number = read(value)
        if not -limit <= cast("float", number) <= limit:
            raise WrongValue("Is too large.")
        return number

    return read_within


def _one_of(read: Read, known: frozenset[Scalar]) -> Read:
    def read_known(value: object) -> Scalar:
        scalar = read(value)
        if scalar not in known:
            raise WrongValue("Is not one of the values that the model knows.")
        return scalar

    return read_known


def _or_null(read: Read) -> Read:
    def read_nullable(value: object) -> Scalar:
        return None if value is None else read(value)

    return read_nullable
