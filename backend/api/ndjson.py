"""Newline-delimited JSON: one object a line, read without holding all of it."""

from typing import Any

from fastapi.responses import StreamingResponse

NDJSON = "application/x-ndjson"
ALSO_NDJSON: dict[int | str, dict[str, Any]] = {200: {"content": {NDJSON: {"schema": {"type": "string"}}}}}
"""For the ``responses`` of a route that answers with either."""


class NdjsonResponse(StreamingResponse):
    """A body that is written line by line."""

    media_type = NDJSON
