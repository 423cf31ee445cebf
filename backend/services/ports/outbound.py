"""Calls to addresses that somebody else named."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundAnswer:
    """What came back. ``headers`` have lower-case names; ``body`` is its beginning, ``is_whole`` if that is all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool
    duration_ms: int


class Resolver(Protocol):
    """Finds the addresses behind a host name."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return every address of a name, in the order in which to try them; none when there is no such name."""
        ...


class OutboundHttp(Protocol):
    """Calls out over HTTP, and never to where the operator would not have it."""

    async def check(self, url: str) -> None:
        """Return when the URL could be called now.

        Raises:
            UrlNotAllowed: its form, its scheme or an address behind its name is refused, or there is no such name.
        """
        ...

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> OutboundAnswer:
        """Send a body and return the answer, whatever its status; redirects are answers and are not followed.

        Everything that :meth:`check` looks at is looked at again, and the connection goes to the very address that was.

        Raises:
            CallFailed: no answer came, or none was allowed to be asked for.
        """
        ...
