"""Rows are checked against a model's inputs, and spelt one way."""

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import SchemaMismatch
from backend.domain.models import Feature, FeatureType
from backend.model_service.encoding import MAX_ERRORS, RowEncoder, TypedRows

FLOATS = RowEncoder([Feature(name=name, type=FeatureType.FLOAT) for name in ("a", "b")])
MIXED_INPUTS = (
    Feature(name="size", type=FeatureType.FLOAT),
    Feature(name="rooms", type=FeatureType.INTEGER),
    Feature(name="new", type=FeatureType.BOOLEAN),
    Feature(name="town", type=FeatureType.STRING),
    Feature(name="heating", type=FeatureType.STRING, categories=("gas", "wood")),
    Feature(name="floor", type=FeatureType.INTEGER, nullable=True),
)
MIXED = RowEncoder(MIXED_INPUTS, max_rows=50, max_text_characters=20)
GOOD: dict[str, Any] = {"size": 80.5, "rooms": 3, "new": False, "town": "Ulm", "heating": "gas", "floor": None}


def faults(encoder: RowEncoder, inputs: Any) -> list[tuple[str, str]]:
    with pytest.raises(SchemaMismatch) as caught:
        encoder.encode(inputs)
    return [(error.pointer, error.detail) for error in caught.value.errors]


def spelling(encoder: RowEncoder, row: Any) -> bytes:
    return encoder.encode([row]).canonical(0)


def test_named_and_positional_rows_are_the_same_row() -> None:
    assert MIXED.encode([GOOD]).rows == MIXED.encode([list(GOOD.values())]).rows
    assert spelling(MIXED, GOOD) == spelling(MIXED, list(GOOD.values())) == b'[80.5,3,false,"Ulm","gas",null]'
    assert spelling(MIXED, dict(reversed(GOOD.items()))) == spelling(MIXED, GOOD)


def test_one_request_may_mix_both_spellings() -> None:
    rows = MIXED.encode([GOOD, list(GOOD.values())])
    assert rows.count == 2
    assert rows.canonical(0) == rows.canonical(1)


@pytest.mark.parametrize(
    ("one", "other"),
    [([5, 1.0], [5.0, 1]), ([-0.0, 0], [0.0, 0.0]), ([1e2, 0.1], [100, 0.1]), ([2**53, 0.0], [float(2**53), 0.0])],
)
def test_equal_numbers_have_one_spelling(one: list[Any], other: list[Any]) -> None:
    assert spelling(FLOATS, one) == spelling(FLOATS, other)


def test_a_negative_zero_reaches_the_model_as_zero() -> None:
    for value in (FLOATS.encode([[-0.0, 1.0]]).rows[0][0], MIXED.encode([GOOD | {"size": -0.0}]).rows[0][0]):
        assert isinstance(value, float)
        assert math.copysign(1.0, value) == 1.0


def test_different_rows_have_different_spellings() -> None:
    assert spelling(FLOATS, [0.1, 0.2]) != spelling(FLOATS, [0.2, 0.1])
    assert spelling(FLOATS, [0.1, 0.30000000000000004]) != spelling(FLOATS, [0.1, 0.3])


def test_a_whole_number_written_with_a_point_is_an_integer() -> None:
    assert MIXED.encode([GOOD | {"rooms": 3.0}]).rows[0][1] == 3
    assert spelling(MIXED, GOOD | {"rooms": 3.0}) == spelling(MIXED, GOOD)


@pytest.mark.parametrize(
    ("feature", "value", "detail"),
    [
        ("size", "80.5", "Must be a number."),
        ("size", True, "Must be a number."),
        ("size", None, "Must not be null."),
        ("size", [1.0], "Must be a number."),
        ("size", float("nan"), "Must be a finite number."),
        ("size", float("inf"), "Must be a finite number."),
        ("size", -float("inf"), "Must be a finite number."),
        ("size", 10**400, "Is too large."),
        ("rooms", 3.5, "Must be an integer."),
        ("rooms", True, "Must be an integer."),
        ("rooms", "3", "Must be an integer."),
        ("rooms", float("nan"), "Must be an integer."),
        ("rooms", 2**63, "Is too large."),
        ("rooms", 1e300, "Is too large."),
        ("new", 0, "Must be true or false."),
        ("new", "false", "Must be true or false."),
        ("new", None, "Must not be null."),
        ("town", 5, "Must be a string."),
        ("town", None, "Must not be null."),
        ("town", "x" * 21, "Is longer than 20 characters."),
        ("town", "\ud800", "Is not valid Unicode text."),
        ("heating", "coal", "Is not one of the values that the model knows."),
        ("heating", {}, "Must be a string."),
        ("floor", 1.5, "Must be an integer."),
    ],
)
def test_a_wrong_value_is_pointed_at(feature: str, value: Any, detail: str) -> None:
    assert faults(MIXED, [GOOD, GOOD | {feature: value}]) == [(f"/inputs/1/{feature}", detail)]
    place = list(GOOD).index(feature)
    positional = list((GOOD | {feature: value}).values())
    assert faults(MIXED, [GOOD, positional]) == [(f"/inputs/1/{place}", detail)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "1", None, [], 10**400])
def test_a_wrong_value_among_floats_is_pointed_at(value: Any) -> None:
    assert [pointer for pointer, _ in faults(FLOATS, [[1.0, 2.0], [1.0, value]])] == ["/inputs/1/1"]
    assert [pointer for pointer, _ in faults(FLOATS, [{"a": value, "b": 1}])] == ["/inputs/0/a"]


def test_finite_numbers_whose_sum_overflows_are_taken() -> None:
    assert FLOATS.encode([[1.7e308, 1.7e308]]).rows == [(1.7e308, 1.7e308)]


def test_a_missing_feature_is_pointed_at_by_its_name() -> None:
    assert faults(FLOATS, [{"a": 1.0}]) == [("/inputs/0/b", "Is missing.")]
    assert faults(MIXED, [{name: value for name, value in GOOD.items() if name != "floor"}]) == [
        ("/inputs/0/floor", "Is missing.")
    ]


def test_an_unknown_feature_is_told_without_its_name() -> None:
    found = faults(FLOATS, [{"a": 1.0, "b": 2.0, "my secret": 3.0}])
    assert found == [("/inputs/0", "Holds a feature that the model does not have.")]


def test_a_misspelt_feature_is_both_unknown_and_missing() -> None:
    found = faults(FLOATS, [{"a": 1.0, "B": 2.0}])
    assert [pointer for pointer, _ in found] == ["/inputs/0", "/inputs/0/b"]


@pytest.mark.parametrize("row", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_wrong_width_is_pointed_at_by_its_row(row: list[float]) -> None:
    assert faults(FLOATS, [[1.0, 2.0], row]) == [("/inputs/1", "Must hold exactly 2 values.")]


@pytest.mark.parametrize("row", [None, 1.0, "12", True])
def test_a_row_is_a_list_or_an_object(row: Any) -> None:
    assert [pointer for pointer, _ in faults(FLOATS, [row])] == ["/inputs/0"]


@pytest.mark.parametrize("inputs", [None, 3, "rows", {"a": 1.0, "b": 2.0}])
def test_inputs_are_a_list(inputs: Any) -> None:
    assert faults(FLOATS, inputs) == [("/inputs", "Must be an array of rows.")]


def test_empty_inputs_are_refused() -> None:
    assert faults(FLOATS, []) == [("/inputs", "Must hold at least one row.")]


def test_too_many_rows_are_refused_at_once() -> None:
    assert faults(MIXED, ["not even a row"] * 51) == [("/inputs", "Must hold at most 50 rows.")]
    assert MIXED.encode([GOOD] * 50).count == 50


def test_names_are_escaped_in_pointers() -> None:
    encoder = RowEncoder([Feature(name="od/280~x", type=FeatureType.FLOAT)])
    assert faults(encoder, [{"od/280~x": "a"}])[0][0] == "/inputs/0/od~1280~0x"


def test_at_most_twenty_faults_are_told() -> None:
    assert len(faults(FLOATS, [["x", "y"]] * 30)) == MAX_ERRORS


def test_a_model_of_one_input_takes_both_spellings() -> None:
    encoder = RowEncoder([Feature(name="x", type=FeatureType.FLOAT)])
    assert encoder.encode([{"x": 1}, [2]]).rows == [(1.0,), (2.0,)]


def test_numeric_categories_are_compared_as_numbers() -> None:
    grade = Feature(name="grade", type=FeatureType.INTEGER, categories=("1", "2"))
    ratio = Feature(name="ratio", type=FeatureType.FLOAT, categories=("0.5", "1.0"))
    flag = Feature(name="flag", type=FeatureType.BOOLEAN, categories=("true",))
    encoder = RowEncoder([grade, ratio, flag])
    assert encoder.encode([[2, 1, True]]).rows == [(2, 1.0, True)]
    assert [pointer for pointer, _ in faults(encoder, [[3, 0.75, False]])] == [
        "/inputs/0/0",
        "/inputs/0/1",
        "/inputs/0/2",
    ]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("gas")
rows = st.lists(scalars, max_size=7) | st.dictionaries(
    st.sampled_from([*GOOD, "other"]) | st.text(), scalars | st.lists(scalars), max_size=8
)
documents = st.recursive(
    scalars | st.lists(rows), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(documents | st.lists(st.fixed_dictionaries(dict.fromkeys(GOOD, scalars)), max_size=3))
def test_any_json_is_encoded_or_a_schema_mismatch(inputs: Any) -> None:
    for encoder in (MIXED, FLOATS):
        try:
            encoded = encoder.encode(inputs)
        except SchemaMismatch:
            told = faults(encoder, inputs)
            assert 0 < len(told) <= MAX_ERRORS
            assert all(pointer.startswith("/inputs") for pointer, _ in told)
        else:
            assert encoded.count == len(inputs)
            assert [orjson.loads(encoded.canonical(index)) for index in range(encoded.count)] == [
                list(row) for row in encoded.rows
            ]


@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**40), 2**40)), min_size=1))
def test_encoding_its_own_spelling_changes_nothing(numbers: list[tuple[float, int]]) -> None:
    first: TypedRows = FLOATS.encode([list(pair) for pair in numbers])
    again = FLOATS.encode([orjson.loads(first.canonical(index)) for index in range(first.count)])
    assert again.rows == first.rows


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_no_detail_repeats_what_the_caller_sent(key: str, value: str) -> None:
    for pointer, detail in faults(FLOATS, [{"a": f"<{value}>", "b": 1.0, f"<{key}>": 2.0}]):
        assert f"<{value}>" not in pointer + detail
        assert f"<{key}>" not in pointer + detail
