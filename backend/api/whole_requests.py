"""Requests that are there to their ends before the application is called: an extension of ASGI.

A server that knows it puts ``{"request": WholeRequest}`` into a scope's extensions. The application then awaits nothing
for the body, answers in one call, and may ask to be given further requests with the same head directly.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from starlette.types import Scope

WHOLE_REQUEST = "forecourt.whole-request"
"""The extension of ASGI by which a server says that a request is there to its end: ``{"request": WholeRequest}``."""


class WholeRequest(Protocol):
    """A request of which nothing is awaited any more."""

    def take(self) -> bytes:
        """Return the body."""
        ...

    def answer(self, status: int, headers: str, body: bytes) -> bool:
        """Send an answer at once; return whether that was possible, otherwise the caller does not read.

        Args:
            status: of HTTP.
            headers: as lines of Latin-1, each with its end; one of them tells the length of the body.
            body: the whole of it.
        """
        ...

    async def drained(self) -> None:
        """Wait until the caller has read enough to be sent more."""
        ...

    def remember(self, serve: "ServeAgain") -> None:
        """Let further requests of this connection that differ in nothing but their bodies be served so."""
        ...

    def leave(self) -> None:
        """Be done with it, answered or not."""
        ...


ServeAgain: TypeAlias = Callable[[WholeRequest], Coroutine[Any, Any, None] | None]
"""Returns what serves a request, or ``None`` if it has to come with its head after all."""


def whole_request_in(scope: Scope) -> WholeRequest | None:
    """Return the whole request of a scope, once."""
    extensions = scope.get("extensions")
    if not extensions or WHOLE_REQUEST not in extensions:
        return None
    # Taken out: a request and its scope that held each other would have to be found by the collector.
    whole: WholeRequest = extensions.pop(WHOLE_REQUEST)["request"]
    return whole
