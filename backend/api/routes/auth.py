"""The token and revocation endpoints, and what clients discover them by."""

import base64
import binascii
from typing import Annotated
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Form, Request, Response

from backend.api.deps import ResourcesDep, SessionServiceDep, TokenIssuerDep, TokenServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.auth import TokenOut
from backend.api.schemas.common import OAuthProblem
from backend.api.throttling import Surface, Throttled
from backend.domain import errors
from backend.domain.errors import OAuthError
from backend.domain.scopes import TENANT_SCOPES, format_scopes
from backend.services.tokens import ClientGrant, PasswordGrant

router = APIRouter(tags=["auth"])
discovery = APIRouter(tags=["auth"])

_OAUTH_REFUSALS = refusals(errors.Overloaded, public=True) | {
    400: {"model": OAuthProblem, "description": "RFC 6749 section 5.2, or `key-in-url`"},
    401: {"model": OAuthProblem, "description": "`invalid_client`"},
    429: {"model": OAuthProblem, "description": "Too many failed attempts, or requests from one address"},
}


@router.post(
    "/auth/token",
    summary="Log in or refresh",
    response_model=TokenOut,
    response_model_exclude_none=True,
    dependencies=[Depends(Throttled(Surface.TOKEN))],
    responses=_OAUTH_REFUSALS,
)
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
    client_id: Annotated[str | None, Form(max_length=100)] = None,
    client_secret: Annotated[str | None, Form(max_length=200)] = None,
) -> TokenOut:
    """Exchange a password, a refresh token or a service account's secret for an access token."""
    match grant_type:
        case "password":
            grant = await service.log_in(
                PasswordGrant(
                    email=_needed(username),
                    password=_needed(password),
                    scope=scope,
                    tenant_slug=tenant,
                    address=request.scope["client_address"] or "",
                    user_agent=request.headers.get("user-agent", "")[:200] or None,
                    request_id=request.scope["request_id"],
                )
            )
        case "refresh_token":
            grant = await service.refresh(_needed(refresh_token), scope)
        case "client_credentials":
            grant = await service.grant_client(_client_grant(request, client_id, client_secret, scope))
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


@router.post(
    "/auth/revoke",
    summary="Revoke a token",
    response_class=Response,
    dependencies=[Depends(Throttled(Surface.REVOKE))],
    responses=_OAUTH_REFUSALS,
)
async def revoke_token(
    request: Request,
    service: SessionServiceDep,
    token: Annotated[str, Form(max_length=8192)],
    token_type_hint: Annotated[str | None, Form(max_length=100)] = None,  # noqa: ARG001  # both kinds are tried anyhow
) -> None:
    """End an access token, or with a refresh token its whole login (RFC 7009), from the next request on.

    The answer is the same for a token that is none.
    """
    await service.revoke_token(
        token, address=request.scope["client_address"] or "", request_id=request.scope["request_id"]
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
        "revocation_endpoint": f"{base}/v1/auth/revoke",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": [*password, "refresh_token", "client_credentials"],
        "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": format_scopes(TENANT_SCOPES).split(),
        "response_types_supported": [],
    }


def _needed(value: str | None) -> str:
    if not value:
        raise OAuthError("invalid_request", "A parameter of this grant is missing.")
    return value


def _client_grant(request: Request, client_id: str | None, client_secret: str | None, scope: str | None) -> ClientGrant:
    """Return the client's credentials from its Basic header or the form, of which RFC 6749 allows one."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ClientGrant(client_id=_needed(client_id), client_secret=_needed(client_secret), scope=scope)
    if client_secret is not None:
        raise OAuthError("invalid_request", "Send the client's credentials once.")
    try:
        name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, secret = "", ""
    # RFC 6749 section 2.3.1: each part is form-encoded before the two are joined.
    return ClientGrant(client_id=unquote_plus(name), client_secret=unquote_plus(secret), scope=scope)
