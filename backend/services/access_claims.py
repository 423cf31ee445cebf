"""What a presented access token says, once it has been verified."""

from backend.services.ports import AccessClaims, TokenIssuer, UnknownSigningKey


async def verified_claims(tokens: TokenIssuer, token: str) -> AccessClaims:
    """Verify a token, with a look at the signing keys when it names one that may be new.

    Raises:
        Unauthenticated: anything about it is not exactly right.
    """
    try:
        return tokens.verify(token)
    except UnknownSigningKey:
        # Another process may have begun to sign with a new key.
        if not await tokens.refresh():
            raise
        return tokens.verify(token)
