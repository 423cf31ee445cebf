"""Aliases point at versions, alone or by weight."""

from typing import Any

import orjson
import pytest

from backend.model_service.aliases import WeightedVersion, dump_aliases, main_version, parse_aliases
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
