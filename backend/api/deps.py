"""Everything that can be swapped, and who may call.

Each port has one provider here, a named function whose return type is the port: ``app.dependency_overrides[get_x]``
replaces it. The caller types below are what routes put into their signatures; a route without one has to be declared
public.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request

from backend.api.resources import Resources
from backend.domain.callers import Caller, PredictCaller
from backend.domain.clock import Clock
from backend.domain.errors import Forbidden, Unauthenticated
from backend.domain.scopes import Scope
from backend.services.api_keys import ApiKeyService
from backend.services.audit import AuditService
from backend.services.authentication import KeyAuthenticator, TokenAuthenticator, caller_from_key
from backend.services.limits import LimitsService
from backend.services.people import PeopleService
from backend.services.ports import (
    Admission,
    CursorCodec,
    HealthProbe,
    KeyDirectory,
    KeyHasher,
    Ledger,
    LoginThrottle,
    ModelCatalog,
    OpaqueTokens,
    PasswordHasher,
    Store,
    TokenIssuer,
    UnitOfWork,
    UsageReader,
)
from backend.services.predictions import PredictionService
from backend.services.tokens import TokenService
from backend.services.usage import UsageService

T = TypeVar("T")


def get_resources(request: Request) -> Resources:
    """Return what the lifespan opened."""
    return cast("Resources", request.app.state.resources)


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


def get_catalog(request: Request) -> ModelCatalog:
    """Return the shared model service."""
    return get_resources(request).catalog


def get_key_directory(request: Request) -> KeyDirectory:
    """Return where API keys are looked up."""
    return get_resources(request).key_directory


def get_password_hasher(request: Request) -> PasswordHasher:
    """Return the password hasher."""
    return get_resources(request).password_hasher


def get_key_hasher(request: Request) -> KeyHasher:
    """Return the API key hasher."""
    return get_resources(request).key_hasher


def get_token_issuer(request: Request) -> TokenIssuer:
    """Return what signs and verifies access tokens."""
    return get_resources(request).token_issuer


def get_opaque_tokens(request: Request) -> OpaqueTokens:
    """Return what makes refresh tokens."""
    return get_resources(request).opaque_tokens


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
    """Open the request's unit of work; it is committed before the answer goes out."""
    async with provided(request, get_store).unit_of_work() as unit:
        yield unit


UnitDep = Annotated[UnitOfWork, Depends(get_unit_of_work, scope="function")]
"""The request's transaction. FastAPI's default scope would commit after the answer was sent."""


def provided(request: Request, provider: Callable[[Request], T]) -> T:
    """Return what a provider gives, honouring an override, without FastAPI's dependency machinery (7 µs each)."""
    override = request.app.dependency_overrides.get(provider)
    return provider(request) if override is None else cast("T", override())


# ----------------------------------------------------------------------------------------------- services


async def get_prediction_service(request: Request) -> PredictionService:
    """Return the prediction service over the providers above."""
    overrides = request.app.dependency_overrides
    resources = get_resources(request)
    if not overrides:
        return resources.predictions
    return PredictionService(
        catalog=provided(request, get_catalog),
        admission=provided(request, get_admission),
        ledger=provided(request, get_ledger),
        keys=provided(request, get_key_directory),
        clock=provided(request, get_clock),
    )


async def get_api_key_service(request: Request, unit: UnitDep) -> ApiKeyService:
    """Return the API key service in the request's unit of work."""
    return ApiKeyService(
        unit=unit,
        hasher=provided(request, get_key_hasher),
        admission=provided(request, get_admission),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_people_service(unit: UnitDep) -> PeopleService:
    """Return the people service in the request's unit of work."""
    return PeopleService(unit=unit)


async def get_token_service(request: Request) -> TokenService:
    """Return the token endpoint's service."""
    return TokenService(
        store=provided(request, get_store),
        passwords=provided(request, get_password_hasher),
        tokens=provided(request, get_token_issuer),
        refresh_tokens=provided(request, get_opaque_tokens),
        throttle=provided(request, get_login_throttle),
        clock=provided(request, get_clock),
        password_grant=get_resources(request).settings.password_grant,
    )


async def get_usage_service(request: Request) -> UsageService:
    """Return the usage service."""
    return UsageService(
        reader=provided(request, get_usage_reader),
        cursors=provided(request, get_cursor_codec),
        clock=provided(request, get_clock),
    )


async def get_audit_service(request: Request, unit: UnitDep) -> AuditService:
    """Return the audit service in the request's unit of work."""
    return AuditService(unit=unit, cursors=provided(request, get_cursor_codec))


StoreDep = Annotated[Store, Depends(get_store)]


async def get_limits_service(request: Request) -> LimitsService:
    """Return the limits service."""
    return LimitsService(admission=provided(request, get_admission))


LimitsServiceDep = Annotated[LimitsService, Depends(get_limits_service)]
AuditServiceDep = Annotated[AuditService, Depends(get_audit_service)]
ApiKeyServiceDep = Annotated[ApiKeyService, Depends(get_api_key_service)]
PeopleServiceDep = Annotated[PeopleService, Depends(get_people_service)]
TokenServiceDep = Annotated[TokenService, Depends(get_token_service)]
UsageServiceDep = Annotated[UsageService, Depends(get_usage_service)]
PredictionServiceDep = Annotated[PredictionService, Depends(get_prediction_service)]


# ----------------------------------------------------------------------------------------------- callers


def presented_credential(request: Request) -> str:
    """Return the credential in the request's headers.

    Raises:
        Unauthenticated: there is none, or there are two that differ.
    """
    key = request.headers.get("x-api-key")
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    bearer = bearer.strip() if scheme.lower() == "bearer" else ""
    if key and bearer and key != bearer:
        raise Unauthenticated("Send one credential, not two.")
    credential = key or bearer
    if not credential:
        raise Unauthenticated
    return credential


def _is_key(credential: str) -> bool:
    # A token is three parts with dots between them; everything else has to be a key, and is refused as one.
    return credential.count(".") != 2  # noqa: PLR2004


async def get_caller(request: Request) -> Caller:
    """Verify the credential, whichever kind it is."""
    credential = presented_credential(request)
    address, request_id = request.scope["client_address"], request.scope["request_id"]
    if _is_key(credential):
        grant = await _key_authenticator(request).authenticate(credential, address)
        caller = caller_from_key(grant)
    else:
        caller = await _token_authenticator(request).authenticate(credential)
    return replace(caller, address=address, request_id=request_id)


async def get_predict_caller(request: Request) -> PredictCaller:
    """Verify the credential and gather the limits that apply to its predictions."""
    credential = presented_credential(request)
    address = request.scope["client_address"]
    if _is_key(credential):
        grant = await _key_authenticator(request).authenticate(credential, address)
        return PredictCaller.from_key(grant, address=address)
    return await _token_authenticator(request).predict_caller(credential, address)


class RequireScope:
    """A dependency that lets through callers who hold a scope. The architecture test reads ``scope`` off it."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        """Return the caller.

        Raises:
            InsufficientScope: the scope is missing.
        """
        caller.require(self.scope)
        return caller


async def require_user(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    """Let through people, not programs.

    Raises:
        Forbidden: the credential is an API key.
    """
    if caller.role is None:
        raise Forbidden("This is for people who have signed in, not for API keys.")
    return caller


async def require_limits_reader(caller: Annotated[PredictCaller, Depends(get_predict_caller)]) -> PredictCaller:
    """Let through whoever may read the limits they live under.

    Raises:
        InsufficientScope: the scope is missing.
    """
    caller.require(Scope.LIMITS_READ)
    return caller


UserCaller = Annotated[Caller, Depends(require_user)]
KeysReader = Annotated[Caller, Depends(RequireScope(Scope.KEYS_READ))]
KeysWriter = Annotated[Caller, Depends(RequireScope(Scope.KEYS_WRITE))]
ModelsReader = Annotated[Caller, Depends(RequireScope(Scope.MODELS_READ))]
AuditReader = Annotated[Caller, Depends(RequireScope(Scope.AUDIT_READ))]
UsageReaderCaller = Annotated[Caller, Depends(RequireScope(Scope.USAGE_READ))]
LimitsReaderCaller = Annotated[PredictCaller, Depends(require_limits_reader)]
PredictCallerDep = Annotated[PredictCaller, Depends(get_predict_caller)]
ResourcesDep = Annotated[Resources, Depends(get_resources)]
ClockDep = Annotated[Clock, Depends(get_clock)]
CatalogDep = Annotated[ModelCatalog, Depends(get_catalog)]
TokenIssuerDep = Annotated[TokenIssuer, Depends(get_token_issuer)]
HealthProbesDep = Annotated[tuple[HealthProbe, ...], Depends(get_health_probes)]


def _key_authenticator(request: Request) -> KeyAuthenticator:
    return KeyAuthenticator(
        keys=provided(request, get_key_directory),
        hasher=provided(request, get_key_hasher),
        clock=provided(request, get_clock),
    )


def _token_authenticator(request: Request) -> TokenAuthenticator:
    return TokenAuthenticator(
        tokens=provided(request, get_token_issuer),
        store=provided(request, get_store),
        clock=provided(request, get_clock),
    )
