"""The token endpoint and what clients discover it by."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from backend.api.deps import ResourcesDep, TokenIssuerDep, TokenServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.auth import TokenOut
from backend.api.schemas.common import OAuthProblem
from backend.domain.errors import OAuthError
from backend.domain.scopes import TENANT_SCOPES, format_scopes
from backend.services.tokens import PasswordGrant

router = APIRouter(tags=["auth"])
discovery = APIRouter(tags=["auth"])

_OAUTH_REFUSALS = refusals(public=True) | {
    400: {"model": OAuthProblem, "description": "RFC 6749 section 5.2, or `key-in-url`"},
    429: {"model": OAuthProblem, "description": "Too many failed attempts"},
}


@router.post("/auth/token", summary="Log in or refresh", response_model=TokenOut, responses=_OAUTH_REFUSALS)
async def issue_token(
    request: Request,
    response: Response,
    service: TokenServiceDep,
    grant_type: Annotated[str, Form(max_length=100)],
    username: Annotated[str | None, Form(max_length=254)] = None,
    password: Annotated[str | None, Form(max_length=1024)] = None,
    refresh_token: Annotated[str | None, Form(max_length=512)] = None,
    scope: Annotated[str | None, Form(max_length=1000)] = None,
    tenant: Annotated[str | None, Form(max_length=63)] = None,
) -> TokenOut:
    """Exchange a password or a refresh token for an access token."""
    match grant_type:
        case "password":
            grant = await service.log_in(
                PasswordGrant(
                    email=_needed(username),
                    password=_needed(password),
                    scope=scope,
                    tenant_slug=tenant,
                    address=request.scope["client_address"] or "",
                )
            )
        case "refresh_token":
            grant = await service.refresh(_needed(refresh_token), scope)
        case _:
            raise OAuthError("unsupported_grant_type", "This grant type is not offered.")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return TokenOut(
        access_token=grant.access_token,
        expires_in=grant.expires_in_s,
        refresh_token=grant.refresh_token,
        scope=format_scopes(grant.scopes),
    )


@discovery.get("/.well-known/jwks.json", summary="Token signing keys", responses=refusals(public=True))
async def read_jwks(tokens: TokenIssuerDep, response: Response) -> dict[str, list[dict[str, str]]]:
    """Return the public keys that verify access tokens (RFC 7517)."""
    response.headers["Cache-Control"] = "public, max-age=300"
    return tokens.jwks()


@discovery.get("/.well-known/oauth-authorization-server", summary="OAuth metadata", responses=refusals(public=True))
async def read_metadata(resources: ResourcesDep, response: Response) -> dict[str, str | list[str]]:
    """Return where the endpoints are and what they offer (RFC 8414)."""
    base = resources.settings.public_url
    response.headers["Cache-Control"] = "public, max-age=300"
    password = ["password"] if resources.settings.password_grant else []
    return {
        "issuer": resources.settings.issuer,
        "token_endpoint": f"{base}/v1/auth/token",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": [*password, "refresh_token"],
        "token_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": format_scopes(TENANT_SCOPES).split(),
        "response_types_supported": [],
    }


def _needed(value: str | None) -> str:
    if not value:
        raise OAuthError("invalid_request", "A parameter of this grant is missing.")
    return value
