"""Who may call: the types that routes put into their signatures. A route without one has to be declared public."""

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from backend.api.deps.providers import (
    get_clock,
    get_key_directory,
    get_key_hasher,
    get_key_use,
    get_store,
    get_strangers,
    get_token_issuer,
    provided,
)
from backend.domain.callers import ActorKind, Caller, PlatformCaller, PredictCaller
from backend.domain.errors import Forbidden, InsufficientScope, Unauthenticated
from backend.domain.scopes import Scope
from backend.services.authentication import KeyAuthenticator, TokenAuthenticator, caller_from_key


def presented_credential(request: Request) -> str:
    """Return the credential in the request's headers.

    Raises:
        Unauthenticated: there is none, or there are two that differ.
    """
    return credential_in(request.headers.get("authorization", ""), request.headers.get("x-api-key"))


def credential_in(authorization: str, key: str | None) -> str:
    """Return the credential in the two headers that may hold one.

    Raises:
        Unauthenticated: there is none, or there are two that differ.
    """
    scheme, _, bearer = authorization.partition(" ")
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


async def get_any_caller(request: Request) -> Caller | PlatformCaller:
    """Verify the credential, whichever kind it is."""
    credential = presented_credential(request)
    address, request_id = request.scope["client_address"], request.scope["request_id"]
    if _is_key(credential):
        verified = await key_authenticator(request).authenticate(credential, address, fresh=True)
        caller: Caller | PlatformCaller = caller_from_key(verified.grant)
    else:
        caller = await token_authenticator(request).authenticate(credential)
    return replace(caller, address=address, request_id=request_id)


async def get_caller(caller: Annotated[Caller | PlatformCaller, Depends(get_any_caller)]) -> Caller:
    """Let through who belongs to a tenant.

    Raises:
        InsufficientScope: a platform login, which reads and changes nothing inside a tenant.
    """
    if isinstance(caller, PlatformCaller):
        raise InsufficientScope("This login is above all tenants, and this belongs to one.")
    return caller


async def get_signed_in_caller(request: Request) -> Caller | PlatformCaller | None:
    """Verify the credential on a route that does without: ``None`` when there is none at all."""
    if not {"authorization", "x-api-key"} & set(request.headers):
        return None
    return await get_any_caller(request)


async def get_predict_caller(request: Request) -> PredictCaller:
    """Verify the credential, a key as it was cached, and gather the limits that apply to its predictions."""
    return await _predict_caller(request, fresh=False)


async def get_fresh_predict_caller(request: Request) -> PredictCaller:
    """The same as the store holds it now, for what does not go through admission."""
    return await _predict_caller(request, fresh=True)


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


class RequireScopeAnywhere:
    """The same for a route that tenants and the platform share, each under a scope of its own."""

    def __init__(self, *, tenant: Scope, platform: Scope) -> None:
        self.tenant = tenant
        self.platform = platform

    async def __call__(
        self, caller: Annotated[Caller | PlatformCaller, Depends(get_any_caller)]
    ) -> Caller | PlatformCaller:
        """Return the caller.

        Raises:
            InsufficientScope: the scope is missing.
        """
        caller.require(self.platform if isinstance(caller, PlatformCaller) else self.tenant)
        return caller


class RequirePlatformScope:
    """A dependency that lets through platform callers who hold a scope, and nobody from a tenant."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, caller: Annotated[Caller | PlatformCaller, Depends(get_any_caller)]) -> PlatformCaller:
        """Return the caller.

        Raises:
            InsufficientScope: the scope is missing, as it is for everybody in a tenant.
        """
        caller.require(self.scope)
        if not isinstance(caller, PlatformCaller):
            raise InsufficientScope(f"This needs the scope {self.scope}.")
        return caller


async def require_person(
    caller: Annotated[Caller | PlatformCaller, Depends(get_any_caller)],
) -> Caller | PlatformCaller:
    """Let through people, in a tenant or above all of them.

    Raises:
        Forbidden: the credential is an API key's or a service account's.
    """
    if caller.kind is not ActorKind.USER:
        raise Forbidden("This is for people who have signed in, not for programs.")
    return caller


async def require_user(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    """Let through a tenant's people, not its programs.

    Raises:
        Forbidden: the credential is an API key's or a service account's.
    """
    if caller.role is None:
        raise Forbidden("This is for people who have signed in, not for programs.")
    return caller


async def require_limits_reader(
    caller: Annotated[PredictCaller, Depends(get_fresh_predict_caller)],
) -> PredictCaller:
    """Let through whoever may read the limits they live under.

    Raises:
        InsufficientScope: the scope is missing.
    """
    caller.require(Scope.LIMITS_READ)
    return caller


# What every caller type below comes down to.
WHO_CALLS = frozenset({get_any_caller, get_predict_caller, get_fresh_predict_caller})


def asks_who_calls(dependant: Dependant) -> bool:
    """Whether a route, by all that it depends on, is closed to strangers."""
    return dependant.call in WHO_CALLS or any(asks_who_calls(each) for each in dependant.dependencies)


async def refuse_stranger(request: Request) -> None:
    """Verify the credential where the route would have, had its body been readable: FastAPI reads that first.

    Raises:
        Unauthenticated, Forbidden: as on any request to a route that is not public.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is not None and asks_who_calls(dependant):
        await get_any_caller(request)


async def _predict_caller(request: Request, *, fresh: bool) -> PredictCaller:
    authenticators = Authenticators(keys=key_authenticator(request), tokens=token_authenticator(request))
    return await authenticators.predict_caller(
        presented_credential(request), request.scope["client_address"], fresh=fresh
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticators:
    """Whoever may predict shows either of two kinds of credential."""

    keys: KeyAuthenticator
    tokens: TokenAuthenticator

    async def predict_caller(self, credential: str, address: str | None, *, fresh: bool = False) -> PredictCaller:
        """Verify a credential, and gather the limits that apply to its predictions."""
        if _is_key(credential):
            return await self.keys.predict_caller(credential, address, fresh=fresh)
        return await self.tokens.predict_caller(credential, address)


def key_authenticator(request: Request) -> KeyAuthenticator:
    """Return what verifies API keys, over the providers."""
    return KeyAuthenticator(
        keys=provided(request, get_key_directory),
        strangers=provided(request, get_strangers),
        hasher=provided(request, get_key_hasher),
        use=provided(request, get_key_use),
        clock=provided(request, get_clock),
    )


def token_authenticator(request: Request) -> TokenAuthenticator:
    """Return what verifies access tokens, over the providers."""
    return TokenAuthenticator(
        tokens=provided(request, get_token_issuer),
        store=provided(request, get_store),
        clock=provided(request, get_clock),
    )


PersonCaller = Annotated[Caller | PlatformCaller, Depends(require_person)]
SignedInCaller = Annotated[Caller | PlatformCaller | None, Depends(get_signed_in_caller)]
UserCaller = Annotated[Caller, Depends(require_user)]
TenantWriter = Annotated[Caller, Depends(RequireScope(Scope.TENANT_WRITE))]
MembersReader = Annotated[Caller, Depends(RequireScope(Scope.MEMBERS_READ))]
MembersWriter = Annotated[Caller, Depends(RequireScope(Scope.MEMBERS_WRITE))]
KeysReader = Annotated[Caller, Depends(RequireScope(Scope.KEYS_READ))]
KeysWriter = Annotated[Caller, Depends(RequireScope(Scope.KEYS_WRITE))]
LimitsWriter = Annotated[Caller, Depends(RequireScope(Scope.LIMITS_WRITE))]
ModelsReader = Annotated[
    Caller | PlatformCaller,
    Depends(RequireScopeAnywhere(tenant=Scope.MODELS_READ, platform=Scope.MODELS_READ)),
]
PlatformAdmin = Annotated[PlatformCaller, Depends(RequirePlatformScope(Scope.ADMIN))]
AuditReader = Annotated[Caller, Depends(RequireScope(Scope.AUDIT_READ))]
UsageReaderCaller = Annotated[Caller, Depends(RequireScope(Scope.USAGE_READ))]
EventsReaderCaller = Annotated[
    Caller | PlatformCaller,
    Depends(RequireScopeAnywhere(tenant=Scope.USAGE_READ, platform=Scope.USAGE_ALL)),
]
ExporterCaller = Annotated[
    Caller | PlatformCaller,
    Depends(RequireScopeAnywhere(tenant=Scope.USAGE_EXPORT, platform=Scope.USAGE_ALL)),
]
Closer = Annotated[PlatformCaller, Depends(RequirePlatformScope(Scope.BILLING_CLOSE))]
Adjuster = Annotated[PlatformCaller, Depends(RequirePlatformScope(Scope.USAGE_ADJUST))]
LimitsReaderCaller = Annotated[PredictCaller, Depends(require_limits_reader)]
PredictCallerDep = Annotated[PredictCaller, Depends(get_predict_caller)]
