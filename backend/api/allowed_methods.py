"""Which methods a path takes: routing stops at the first route whose path fits, and names that one's alone."""

from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute


def allowed_methods(routes: Sequence[BaseRoute], path: str) -> tuple[str, ...]:
    """Return the methods of every route that a path leads to, in alphabetical order."""
    methods: set[str] = set()
    for context in iter_route_contexts(routes):
        if context.methods and context.path_regex.match(path):
            methods |= context.methods
    return tuple(sorted(methods))
