"""What an application serves, as the tests that must miss nothing see it."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute


def routes_of(app: FastAPI) -> Iterator[BaseRoute]:
    """Walk every route, whatever routers it was included through."""
    yield from _walk(app.router)


def _walk(router: Any) -> Iterator[BaseRoute]:
    for route in router.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None:
            yield from _walk(inner)
        else:
            yield route
