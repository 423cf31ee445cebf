"""Aliases point at versions, alone or by weight."""

from typing import Any

import orjson
import pytest

from backend.model_service.aliases import WeightedVersion, dump_aliases, main_version, parse_aliases, version_for
from backend.model_service.errors import ModelRefused


def test_an_alias_is_one_version_or_several_by_weight() -> None:
    aliases = parse_aliases(b'{"stable": "2", "canary": {"2": 95, "3": 5}}')
    assert aliases["stable"] == (WeightedVersion("2", 1),)
    assert aliases["canary"] == (WeightedVersion("2", 95), WeightedVersion("3", 5))
    assert main_version(aliases["canary"]) == "2"


def test_aliases_are_written_as_they_are_read() -> None:
    text = {"canary": {"2": 95, "3": 5}, "stable": "2"}
    assert orjson.loads(dump_aliases(parse_aliases(orjson.dumps(text)))) == text


@pytest.mark.parametrize(
    "document",
    [
        [],
        "2",
        {"stable": 2},
        {"stable": {}},
        {"stable": None},
        {"stable": "../2"},
        {"2": "3"},
        {"canary": {"2": 0}},
        {"canary": {"2": -1}},
        {"canary": {"2": 0.5}},
        {"canary": {"2": True}},
    ],
)
def test_anything_else_is_refused(document: Any) -> None:
    with pytest.raises(ModelRefused):
        parse_aliases(orjson.dumps(document))


CALLERS = [f"ten_{at % 40}:key_{at}" for at in range(4_000)]


def sides(*weights: int) -> list[str]:
    targets = tuple(WeightedVersion(str(at), weight) for at, weight in enumerate(weights))
    return [version_for(targets, caller) for caller in CALLERS]


def test_callers_are_shared_by_weight_and_each_stays_on_its_side() -> None:
    assert sides(95, 5) == sides(95, 5)
    assert sides(95, 5).count("1") == pytest.approx(200, abs=45)
    assert sides(1, 1, 2).count("2") == pytest.approx(2_000, abs=120)
    # A caller's side is known beforehand, on every replica and in every release.
    assert version_for((WeightedVersion("a", 1), WeightedVersion("b", 1)), "ten_1:key_1") == "b"


def test_callers_only_move_to_the_version_that_grows() -> None:
    moved = {(before, after) for before, after in zip(sides(95, 5), sides(60, 40), strict=True) if before != after}
    assert moved == {("0", "1")}


def test_nobody_in_particular_gets_the_main_version() -> None:
    assert version_for((WeightedVersion("2", 95), WeightedVersion("3", 5)), "") == "2"
    assert version_for((WeightedVersion("2", 1),), "ten_1:key_1") == "2"
