"""Credentials: hashing, signing, looking up, slowing down."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.api_keys import KeyGrant
from backend.domain.ids import TenantId
from backend.domain.scopes import Scope


class KeyDirectory(Protocol):
    """Finds an API key with all that applies to it, in its own short session."""

    async def find(self, lookup_id: str) -> KeyGrant | None:
        """Return the key of that id, possibly as cached; ``None`` when there is none."""
        ...

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now, and cache that."""
        ...


class PasswordHasher(Protocol):
    """Slow hashes, computed off the event loop in a bounded pool."""

    async def hash(self, password: str) -> str:
        """Return the hash string of a password, parameters and salt inside."""
        ...

    async def verify(self, password: str, stored: str | None) -> bool:
        """Compare; with ``stored`` ``None`` (no such account) do the same work and answer ``False``."""
        ...

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with weaker parameters than today's."""
        ...


class KeyHasher(Protocol):
    """Fast keyed hashes of high-entropy secrets, under a versioned pepper."""

    def hash(self, secret: str) -> tuple[bytes, int]:
        """Return the hash under the newest pepper, and that pepper's version."""
        ...

    def verify(self, secret: str, stored: bytes, pepper_version: int) -> bool:
        """Compare in constant time under the pepper the hash was made with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """The content of a verified access token; ``tenant_id`` is ``None`` for a platform login."""

    subject: str
    tenant_id: TenantId | None
    scopes: frozenset[Scope]
    token_id: str
    session_id: str | None
    issued_at: datetime
    expires_at: datetime


class TokenIssuer(Protocol):
    """Signs and verifies access tokens."""

    def issue(
        self,
        *,
        subject: str,
        tenant_id: TenantId | None,
        scopes: frozenset[Scope],
        session_id: str | None,
    ) -> tuple[str, int]:
        """Return a signed token and its lifetime in seconds."""
        ...

    def verify(self, token: str) -> AccessClaims:
        """Verify a token in every respect.

        Raises:
            Unauthenticated: anything about it is not exactly right.
        """
        ...

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as an RFC 7517 key set."""
        ...


class OpaqueTokens(Protocol):
    """Random tokens that are stored only as hashes."""

    def mint(self) -> str:
        """Return a fresh token."""
        ...

    def successor(self, token: str) -> str:
        """Return the one token that may follow; always the same for the same token."""
        ...

    def hash(self, token: str) -> bytes:
        """Return what the store keeps."""
        ...


class CursorCodec(Protocol):
    """Opaque list cursors that cannot be forged or moved to another list."""

    def encode(self, purpose: str, position: str) -> str:
        """Return a cursor for a position in the list that ``purpose`` names (tenant and filters included)."""
        ...

    def decode(self, purpose: str, cursor: str) -> str:
        """Return the position.

        Raises:
            Invalid: the cursor was not made by this service for this list.
        """
        ...


class LoginThrottle(Protocol):
    """Slows down guessing: per account and address, with a delay that grows and then forgets."""

    async def delay_s(self, account: str, address: str) -> int:
        """Return how many seconds the caller has to wait; 0 when it may try now."""
        ...

    async def failed(self, account: str, address: str) -> None:
        """Note a failed attempt."""
        ...

    async def succeeded(self, account: str, address: str) -> None:
        """Forget the failures."""
        ...
