"""What an application serves, one entry a path and method."""

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts


@dataclass(frozen=True, slots=True)
class ServedRoute:
    """A route where it is served, and the tree of all that it depends on."""

    path: str
    method: str
    dependant: Dependant
    is_documented: bool


def served_routes(app: FastAPI) -> Iterator[ServedRoute]:
    """Yield every route of ours; FastAPI's own ``/openapi.json`` is none."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            for method in sorted(context.methods or ()):
                dependant = context.original_route.dependant
                yield ServedRoute(str(context.path), method, dependant, bool(context.include_in_schema))
