"""Aliases: names that point at versions. ``{"stable": "2", "canary": {"2": 95, "3": 5}, "shadow": "4"}``.

A text is one version; an object shares callers between versions by weight.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeAlias

import orjson

from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import is_version_name

STABLE: Final = "stable"
"""What a bare model name means where it is set."""
SHADOW: Final = "shadow"
"""Names the version that gets the rows of the others as well; see :mod:`backend.model_service.shadows`."""


@dataclass(frozen=True, slots=True)
class WeightedVersion:
    """A version and its share of an alias's callers, relative to the alias's other versions."""

    version: str
    weight: int


Aliases: TypeAlias = dict[str, tuple[WeightedVersion, ...]]


def is_alias_name(text: str) -> bool:
    """Whether a text may name an alias: like a version, and not a number, which always means a version."""
    return is_version_name(text) and not text.isdigit()


def parse_aliases(data: bytes) -> Aliases:
    """Read an aliases file.

    Raises:
        ModelRefused: it is not of the form above.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ModelRefused("The aliases file is not valid JSON.") from error
    if not isinstance(document, dict) or not all(is_alias_name(alias) for alias in document):
        raise ModelRefused("The aliases file is not an object of alias names.")
    aliases = {alias: _targets(value) for alias, value in document.items()}
    if len(aliases.get(SHADOW, ())) > 1:
        raise ModelRefused("The alias shadow must be one version.")
    return aliases


def dump_aliases(aliases: Aliases) -> bytes:
    """Return the file's bytes; an alias of one version is written as a text."""
    document = {
        alias: targets[0].version if len(targets) == 1 else {target.version: target.weight for target in targets}
        for alias, targets in aliases.items()
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SORT_KEYS)


def main_version(targets: tuple[WeightedVersion, ...]) -> str:
    """Return the version that most of an alias's callers get; the first one where several do."""
    return max(targets, key=lambda target: target.weight).version


def version_for(targets: tuple[WeightedVersion, ...], caller_label: str) -> str:
    """Return the version that one caller gets: always the same one, and the weights' share of callers each.

    Where a weight grows, callers only move towards it: each stands at one place of the line that the weights divide.
    """
    if len(targets) == 1:
        return targets[0].version
    if not caller_label:
        return main_version(targets)
    place = int.from_bytes(blake2b(caller_label.encode(), digest_size=8).digest()) / 2**64
    left = place * sum(target.weight for target in targets)
    for target in targets:
        left -= target.weight
        if left < 0:
            return target.version
    return targets[-1].version


def _targets(value: object) -> tuple[WeightedVersion, ...]:
    if isinstance(value, str):
        value = {value: 1}
    if not isinstance(value, dict) or not value:
        raise ModelRefused("An alias must be a version, or versions with weights.")
    return tuple(_weighted(version, weight) for version, weight in value.items())


def _weighted(version: str, weight: object) -> WeightedVersion:
    if not is_version_name(version):
        raise ModelRefused("An alias names a malformed version.")
    if type(weight) is not int or weight <= 0:
        raise ModelRefused("An alias's weights must be whole numbers above zero.")
    return WeightedVersion(version, weight)
