"""Access tokens: JWTs after RFC 9068, through python-jose, with everything pinned that its defaults leave open.

python-jose by itself accepts a token without ``exp`` or ``aud``, ignores ``typ`` and reads whatever header it finds.
So the header is checked here before the library sees the token, to the letter: ES256, ``at+jwt``, a ``kid`` of ours,
and nothing else in it. The library verifies the signature alone. Its own look at the claims is left out: a claim that
it is told to require it also compares, with the machine's clock and by its own rules. Here each required one must be
there, with its type, and times are compared with our clock.
"""

import base64
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from jose import jwk, jws, jwt
from jose.backends.base import Key
from jose.exceptions import JOSEError

from backend.adapters.single_flight import SingleFlight
from backend.domain.clock import Clock
from backend.domain.errors import Unauthenticated
from backend.domain.ids import TenantId
from backend.domain.scopes import Scope, format_scopes, parse_scopes
from backend.services.ports import AccessClaims, UnknownSigningKey

ALGORITHM = "ES256"
TYPE = "at+jwt"
MAX_TOKEN_BYTES = 8 * 1024
SKEW_S = 30
REFRESH_EVERY_S = 5.0
"""How often tokens of unknown keys may have the signing keys read again."""
_HEADER_NAMES = {"alg", "typ", "kid"}
# The library skips characters that are not base64url. Without them, and with the signature's spare bits at zero, a
# token has one spelling only.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{85}[AQgw]", re.ASCII)
_TIMES = ("exp", "iat")
_NAMES = ("iss", "aud", "sub", "jti")


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A P-256 key pair; ``private_pem`` is ``None`` for a key that only verifies any more."""

    kid: str
    public_pem: str
    private_pem: str | None


def generate_signing_key() -> SigningKey:
    """Return a fresh P-256 key pair."""
    private = ec.generate_private_key(ec.SECP256R1())
    return SigningKey(
        kid=secrets.token_hex(8),
        public_pem=private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        private_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


class JoseTokenIssuer:
    """Signs with the first key that can, verifies with any.

    Args:
        keys: newest first.
        issuer: of our tokens.
        audience: of our tokens.
        ttl_s: lifetime of a token.
        clock: decides what has expired.
        read_keys: where the keys are read again, when other processes may have rotated them.
    """

    def __init__(
        self,
        keys: tuple[SigningKey, ...],
        *,
        issuer: str,
        audience: str,
        ttl_s: int,
        clock: Clock,
        read_keys: Callable[[], Awaitable[tuple[SigningKey, ...]]] | None = None,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._ttl_s = ttl_s
        self._clock = clock
        self._read_keys = read_keys
        self._refreshes = SingleFlight()
        self._refreshed_at_s = float("-inf")
        self.replace_keys(keys)

    def replace_keys(self, keys: tuple[SigningKey, ...]) -> None:
        """Take other keys from now on, newest first."""
        signer = next(key for key in keys if key.private_pem is not None)
        # Read once: the library would read the text again for each token, which costs as much as to sign it.
        self._signing_kid, self._signing = signer.kid, jwk.construct(signer.private_pem, ALGORITHM)
        self._verifying = {key.kid: jwk.construct(key.public_pem, ALGORITHM) for key in keys}
        self._public = {key.kid: key.public_pem for key in keys}

    async def refresh(self) -> bool:
        """Read the signing keys again, unless that was done moments ago; whoever comes meanwhile waits for it."""
        if self._read_keys is None:
            return False
        is_due = self._clock.now_s() >= self._refreshed_at_s + REFRESH_EVERY_S
        if is_due or self._refreshes.is_running("keys"):
            await self._refreshes.run("keys", self._refresh)
            return True
        return False

    async def reload(self) -> None:
        """Read the signing keys again, now. What is read in rhythm does not count as a refresh: a key may be newer."""
        if self._read_keys is not None:
            self.replace_keys(await self._read_keys())

    async def _refresh(self) -> None:
        last_s, self._refreshed_at_s = self._refreshed_at_s, self._clock.now_s()
        try:
            await self.reload()
        except BaseException:
            # Nothing was learnt: the next token of an unknown key is not to be called wrong for that.
            self._refreshed_at_s = last_s
            raise

    def issue(
        self,
        *,
        subject: str,
        tenant_id: TenantId | None,
        scopes: frozenset[Scope],
        session_id: str | None,
        generation: int | None = None,
    ) -> tuple[str, int]:
        """Return a signed token and its lifetime in seconds."""
        now = int(self._clock.now_s())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": subject,
            "aud": self._audience,
            "iat": now,
            "exp": now + self._ttl_s,
            "jti": secrets.token_hex(16),
            "scope": format_scopes(scopes),
        }
        if tenant_id is not None:
            claims["tid"] = tenant_id
        if session_id is not None:
            claims["sid"] = session_id
        if generation is not None:
            claims["gen"] = generation
        token = jwt.encode(
            claims,
            self._signing,
            algorithm=ALGORITHM,
            headers={"typ": TYPE, "kid": self._signing_kid},
        )
        return str(token), self._ttl_s

    def verify(self, token: str) -> AccessClaims:
        """Verify a token in every respect.

        Raises:
            Unauthenticated: anything about it is not exactly right; which thing is not said.
        """
        key = self._key_of(token)
        try:
            claims = json.loads(jws.verify(token, key, algorithms=[ALGORITHM]))
        except (JOSEError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated from error
        if not isinstance(claims, dict):
            raise Unauthenticated
        return self._checked(claims)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as an RFC 7517 key set."""
        return {"keys": [_jwk(kid, pem) for kid, pem in self._public.items()]}

    def _key_of(self, token: str) -> Key:
        if len(token) > MAX_TOKEN_BYTES or _COMPACT.fullmatch(token) is None:
            raise Unauthenticated
        encoded = token.split(".", 1)[0]
        try:
            header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except (ValueError, RecursionError) as error:
            raise Unauthenticated from error
        # A header with anything more (jku, x5u, jwk, crit, …) asks for a verification other than ours.
        if not isinstance(header, dict) or set(header) != _HEADER_NAMES:
            raise Unauthenticated
        if header["alg"] != ALGORITHM or header["typ"] != TYPE or not isinstance(header["kid"], str):
            raise Unauthenticated
        key = self._verifying.get(header["kid"])
        if key is None:
            raise UnknownSigningKey
        return key

    def _checked(self, claims: Mapping[str, Any]) -> AccessClaims:
        now = self._clock.now_s()
        # A boolean is an int to Python, and a time with a fraction is none of ours.
        if any(type(claims.get(name)) is not int for name in _TIMES) or type(claims.get("nbf", 0)) is not int:
            raise Unauthenticated
        if any(not isinstance(claims.get(name), str) or not claims[name] for name in _NAMES):
            raise Unauthenticated
        # RFC 7519 also knows a list of audiences; ours is one name.
        if claims["aud"] != self._audience or claims["iss"] != self._issuer:
            raise Unauthenticated
        if claims["exp"] + SKEW_S <= now or claims["iat"] - SKEW_S > now:
            raise Unauthenticated
        if claims.get("nbf", 0) - SKEW_S > now or claims["exp"] - claims["iat"] > self._ttl_s:
            raise Unauthenticated
        tenant_id, session_id, scope = claims.get("tid"), claims.get("sid"), claims.get("scope")
        scopes = parse_scopes(scope) if isinstance(scope, str) else None
        if scopes is None or not isinstance(tenant_id, str | None) or not isinstance(session_id, str | None):
            raise Unauthenticated
        generation = claims.get("gen")
        if generation is not None and type(generation) is not int:
            raise Unauthenticated
        return AccessClaims(
            subject=claims["sub"],
            tenant_id=TenantId(tenant_id) if tenant_id is not None else None,
            scopes=scopes,
            token_id=claims["jti"],
            session_id=session_id,
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            generation=generation,
        )


def _jwk(kid: str, public_pem: str) -> dict[str, str]:
    public = load_pem_public_key(public_pem.encode())
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError("signing keys are on P-256")
    numbers = public.public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": _coordinate(numbers.x),
        "y": _coordinate(numbers.y),
        "kid": kid,
        "use": "sig",
        "alg": ALGORITHM,
    }


def _coordinate(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()
