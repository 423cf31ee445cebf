"""``Idempotency-Key`` on requests that create: the same request again is the same answer, and nothing is made twice.

A router opts in with ``route_class=IdempotentRoute``, and each creating route of it with one parameter::

    router = APIRouter(prefix="/things", route_class=IdempotentRoute)

    @router.post("", status_code=201)
    async def create_thing(body: ThingIn, caller: ThingsWriter, service: ThingServiceDep, _once: Once) -> ThingOut: ...

The claim is made in the request's own unit of work and the answer is kept in it, so both stand or fall with what the
route did. A stored answer goes out only where the endpoint would have run: after the credential, its scope and the
body have been checked.
"""

import re
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.routing import APIRoute

from backend.api.deps import IdempotencyServiceDep, get_any_caller
from backend.domain import errors
from backend.domain.admission import IdempotencyClaim, StoredAnswer
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.errors import FieldError, Invalid
from backend.services.idempotency import IdempotencyService

ONCE_REFUSALS = (errors.BadRequest, errors.IdempotencyInProgress, errors.IdempotencyKeyReused)
"""What a route that takes :data:`Once` can refuse besides its own."""
PATTERN = r"^[\x20-\x7e]{1,255}$"
_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_KEPT_HEADERS = ("content-type", "location", "cache-control")


def claim_of(request: Request, body: bytes) -> IdempotencyClaim | None:
    """Return what a request's Idempotency-Key claims: the key, for this very request.

    Raises:
        Invalid: the header is not 1-255 printable characters.
    """
    header = request.headers.get("idempotency-key")
    if header is None:
        return None
    key = header.encode("latin-1")
    check_key(key)
    return claim_on(request.method, request.url.path, key, body)


def check_key(key: bytes) -> None:
    """Refuse what is no Idempotency-Key.

    Raises:
        Invalid: it is not 1-255 printable characters.
    """
    if not _KEY.fullmatch(key):
        problem = FieldError("/header/Idempotency-Key", "must be 1-255 printable characters")
        raise Invalid(errors=(problem,))


def claim_on(method: str, path: str, key: bytes, body: bytes) -> IdempotencyClaim:
    """Return the same for a request that has been taken apart, and a key that has been checked."""
    target = f"{method} {path}\n".encode()
    return IdempotencyClaim(key=key.decode(), fingerprint=blake2b(target + body, digest_size=32).digest())


class Repetition:
    """A request's claim on its Idempotency-Key, and what was answered under it before, if anything was."""

    def __init__(
        self,
        service: IdempotencyService,
        caller: Caller | PlatformCaller,
        claim: IdempotencyClaim,
        stored: StoredAnswer | None,
    ) -> None:
        self._service = service
        self._caller = caller
        self._claim = claim
        self.stored = stored

    async def keep(self, response: Response) -> None:
        """Keep an answer in the request's unit of work."""
        headers = tuple([(name, value) for name, value in response.headers.items() if name in _KEPT_HEADERS])
        answer = StoredAnswer(status=response.status_code, body=bytes(response.body), headers=headers)
        await self._service.keep(self._caller, self._claim, answer)


async def claim_repetition(
    request: Request,
    caller: Annotated[Caller | PlatformCaller, Depends(get_any_caller)],
    service: IdempotencyServiceDep,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=PATTERN,
            min_length=1,
            max_length=255,
            description="The same key and body within 24 hours: the stored answer again, and nothing is made twice.",
        ),
    ] = None,
) -> Repetition | None:
    """Claim the request's Idempotency-Key, if it has one, until its unit of work ends.

    Raises:
        IdempotencyInProgress, IdempotencyKeyReused: the key belongs to another request.
    """
    claim = None if key is None else claim_of(request, await request.body())
    if claim is None:
        return None
    repetition = Repetition(service, caller, claim, await service.recall(caller, claim))
    request.state.repetition = repetition
    return repetition


Once = Annotated[Repetition | None, Depends(claim_repetition)]
"""Makes a route answer the same Idempotency-Key once; its router's ``route_class`` is :class:`IdempotentRoute`."""


class IdempotentRoute(APIRoute):
    """Keeps the answers of endpoints that take :data:`Once`, and gives them again."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _unless_stored(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which keeps the finished answer while the unit of work is still open."""
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            response = await handle(request)
            repetition: Repetition | None = getattr(request.state, "repetition", None)
            if repetition is not None and repetition.stored is None:
                await repetition.keep(response)
            return response

        return handle_once


def _unless_stored(endpoint: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the endpoint, which does not run when there is a stored answer."""

    @wraps(endpoint)
    async def endpoint_unless_stored(**values: Any) -> Any:
        stored = next((value.stored for value in values.values() if isinstance(value, Repetition)), None)
        if stored is None:
            return await endpoint(**values)
        return Response(stored.body, stored.status, {**dict(stored.headers), "Idempotency-Replayed": "true"})

    return endpoint_unless_stored
