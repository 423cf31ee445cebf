"""One provider for each port, a named function whose return type is the port."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from backend.api.resources import Resources
from backend.domain.clock import Clock
from backend.services.ports import (
    Admission,
    CursorCodec,
    HealthProbe,
    KeyDirectory,
    KeyHasher,
    KeyUse,
    Ledger,
    LoginThrottle,
    Metrics,
    ModelCatalog,
    ModelRollouts,
    OpaqueTokens,
    OutboundHttp,
    Outbox,
    PasswordHasher,
    Precedence,
    Sealer,
    Store,
    StrangerThrottle,
    TokenIssuer,
    UnitOfWork,
    UsageReader,
    WaitingUsage,
)

T = TypeVar("T")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def get_resources(request: Request) -> Resources:
    """Return what the lifespan opened."""
    return cast("Resources", request.app.state.resources)


def get_metrics(request: Request) -> Metrics:
    """Return what counts."""
    return get_resources(request).metrics


def get_clock(request: Request) -> Clock:
    """Return the clock."""
    return get_resources(request).clock


def get_store(request: Request) -> Store:
    """Return the store of record."""
    return get_resources(request).store


def get_admission(request: Request) -> Admission:
    """Return admission."""
    return get_resources(request).admission


def get_ledger(request: Request) -> Ledger:
    """Return the ledger's writer."""
    return get_resources(request).ledger


def get_usage_reader(request: Request) -> UsageReader:
    """Return the ledger's reader."""
    return get_resources(request).usage_reader


def get_waiting_usage(request: Request) -> WaitingUsage:
    """Return what knows how far the ledger is behind."""
    return get_resources(request).waiting_usage


def get_catalog(request: Request) -> ModelCatalog:
    """Return the shared model service."""
    return get_resources(request).catalog


def get_model_rollouts(request: Request) -> ModelRollouts:
    """Return what decides which versions are served."""
    return get_resources(request).rollouts


def get_key_directory(request: Request) -> KeyDirectory:
    """Return where API keys are looked up."""
    return get_resources(request).key_directory


def get_password_hasher(request: Request) -> PasswordHasher:
    """Return the password hasher."""
    return get_resources(request).password_hasher


def get_precedence(request: Request) -> Precedence:
    """Return what lets predictions go first."""
    return get_resources(request).precedence


def get_key_hasher(request: Request) -> KeyHasher:
    """Return the API key hasher."""
    return get_resources(request).key_hasher


def get_key_use(request: Request) -> KeyUse:
    """Return where the use of API keys is noted."""
    return get_resources(request).key_use


def get_answer_sealer(request: Request) -> Sealer:
    """Return what seals answers that are kept for a repetition."""
    return get_resources(request).answer_sealer


def get_webhook_sealer(request: Request) -> Sealer:
    """Return what seals the secrets that webhooks are signed with."""
    return get_resources(request).webhook_sealer


def get_token_issuer(request: Request) -> TokenIssuer:
    """Return what signs and verifies access tokens."""
    return get_resources(request).token_issuer


def get_opaque_tokens(request: Request) -> OpaqueTokens:
    """Return what makes refresh tokens."""
    return get_resources(request).opaque_tokens


def get_mailed_tokens(request: Request) -> OpaqueTokens:
    """Return what makes the tokens of invitations, sign-ups and password resets."""
    return get_resources(request).mailed_tokens


def get_outbox(request: Request) -> Outbox:
    """Return what takes mail."""
    return get_resources(request).outbox


def get_outbound(request: Request) -> OutboundHttp:
    """Return what calls addresses that others named."""
    return get_resources(request).outbound


def get_strangers(request: Request) -> StrangerThrottle:
    """Return what slows down unknown API keys."""
    return get_resources(request).strangers


def get_cursor_codec(request: Request) -> CursorCodec:
    """Return what writes and reads cursors."""
    return get_resources(request).cursor_codec


def get_login_throttle(request: Request) -> LoginThrottle:
    """Return what slows down guessing."""
    return get_resources(request).login_throttle


def get_health_probes(request: Request) -> tuple[HealthProbe, ...]:
    """Return the resources that /readyz asks."""
    return get_resources(request).health_probes


async def get_unit_of_work(request: Request) -> AsyncIterator[UnitOfWork]:
    """Open the request's unit of work; it is committed before the answer goes out.

    A safe method's unit only reads: on SQLite it neither stands in line with the writers nor needs a file it can write.
    """
    async with provided(request, get_store).unit_of_work(read_only=request.method in SAFE_METHODS) as unit:
        yield unit


def provided(request: Request, provider: Callable[[Request], T]) -> T:
    """Return what a provider gives, honouring an override, without FastAPI's dependency machinery (7 µs each)."""
    override = request.app.dependency_overrides.get(provider)
    return provider(request) if override is None else cast("T", override())


UnitDep = Annotated[UnitOfWork, Depends(get_unit_of_work, scope="function")]
"""The request's transaction. FastAPI's default scope would commit after the answer was sent."""
CursorCodecDep = Annotated[CursorCodec, Depends(get_cursor_codec)]
StoreDep = Annotated[Store, Depends(get_store)]
ResourcesDep = Annotated[Resources, Depends(get_resources)]
ClockDep = Annotated[Clock, Depends(get_clock)]
CatalogDep = Annotated[ModelCatalog, Depends(get_catalog)]
TokenIssuerDep = Annotated[TokenIssuer, Depends(get_token_issuer)]
HealthProbesDep = Annotated[tuple[HealthProbe, ...], Depends(get_health_probes)]
