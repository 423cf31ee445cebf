"""One byte range of a representation that is known to the byte (RFC 9110 section 14)."""

import re

from backend.domain.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def asked_range(header: str | None, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte asked for and the one after the last; ``None`` is the whole.

    A range that cannot be read, several of them, and one of another version (``If-Range``) are the whole.

    Raises:
        RangeNotSatisfiable: it lies behind the end.
    """
    if header is None or (if_range is not None and if_range.strip() != etag):
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= size or start >= end:
        raise RangeNotSatisfiable
    return start, end
