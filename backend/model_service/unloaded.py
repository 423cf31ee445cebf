"""Versions that are kept from being served until they are loaded again: ``["2", "7"]`` in a file beside the aliases."""

from collections.abc import Sequence

import orjson

from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import is_version_name


def parse_versions(data: bytes) -> frozenset[str]:
    """Read the file.

    Raises:
        ModelRefused: it is no list of versions.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ModelRefused("The file of unloaded versions is not valid JSON.") from error
    if not isinstance(document, list) or not all(isinstance(each, str) and is_version_name(each) for each in document):
        raise ModelRefused("The file of unloaded versions is not a list of versions.")
    return frozenset(document)


def dump_versions(versions: Sequence[str]) -> bytes:
    """Return the file's bytes."""
    return orjson.dumps(list(versions), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
