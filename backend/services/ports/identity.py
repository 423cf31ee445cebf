"""Credentials: hashing, signing, looking up, slowing down."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backend.domain.api_keys import KeyGrant
from backend.domain.errors import Unauthenticated
from backend.domain.ids import KeyId, TenantId
from backend.domain.scopes import Scope
from backend.services.ports.store import StoredSigningKey


class KeyDirectory(Protocol):
    """Finds an API key with all that applies to it, apart from any unit of work."""

    def holds(self, lookup_id: str) -> bool:
        """Whether the key is at hand, known to exist; no I/O."""
        ...

    def cached(self, lookup_id: str) -> KeyGrant | None:
        """Return the very copy that :meth:`find` would, where it need not ask the store; else ``None``. No I/O."""
        ...

    async def find(self, lookup_id: str) -> KeyGrant | None:
        """Return the key of that id, possibly as cached; ``None`` when there is none."""
        ...

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now, and cache that."""
        ...

    async def recheck(self, lookup_id: str) -> KeyGrant | None:
        """Return the key for a caller whom the cached copy refuses.

        The store is asked, but not again and again: whoever guesses must not be able to keep it busy.
        """
        ...


class KeyUse(Protocol):
    """Notes of verified keys, written to the store in batches, off every caller's clock."""

    def note(self, key_id: KeyId, generation: int) -> None:
        """Note that a key is used now, with its secret of that generation. Costs less than a microsecond."""
        ...

    async def flush(self) -> int:
        """Write what was noted since the last time; return how many keys."""
        ...


class PasswordHasher(Protocol):
    """Slow hashes, computed off the event loop in a bounded pool. A wave of them must not slow predictions down."""

    async def hash(self, password: str) -> str:
        """Return the hash string of a password, parameters and salt inside.

        Raises:
            Overloaded, Unavailable: it cannot be computed now.
        """
        ...

    async def verify(self, password: str, stored: str | None) -> bool:
        """Compare; with ``stored`` ``None`` (no such account) do the same work and answer ``False``.

        Raises:
            Overloaded, Unavailable: it cannot be computed now.
        """
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
    """The content of a verified access token; ``tenant_id`` is ``None`` for a platform login.

    A person's token belongs to a login, ``session_id``; a service account's to a secret, its ``generation``-th.
    """

    subject: str
    tenant_id: TenantId | None
    scopes: frozenset[Scope]
    token_id: str
    session_id: str | None
    issued_at: datetime
    expires_at: datetime
    generation: int | None = None


class UnknownSigningKey(Unauthenticated):
    """The token names a signing key that this process does not know, or not yet."""


class SigningKeySmith(Protocol):
    """Makes the keys that sign access tokens."""

    def make(self, at: datetime) -> StoredSigningKey:
        """Return a fresh key pair, the private part sealed."""
        ...


class TokenIssuer(Protocol):
    """Signs and verifies access tokens."""

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
        ...

    def verify(self, token: str) -> AccessClaims:
        """Verify a token in every respect.

        Raises:
            UnknownSigningKey: it names a key that may be new: ask again after :meth:`refresh`.
            Unauthenticated: anything about it is not exactly right.
        """
        ...

    async def refresh(self) -> bool:
        """Read the signing keys again, unless that was done moments ago; say whether it was done.

        This is the one thing that a token of an unknown key can cause: a look at our own store, bounded in number
        however many such tokens come. Nothing that the token says is ever followed.
        """
        ...

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as an RFC 7517 key set."""
        ...


class Sealer(Protocol):
    """Encrypts what has to be kept and read again."""

    def seal(self, plain: bytes, name: str) -> bytes:
        """Return the sealed bytes, which only open under the same name."""
        ...

    def unseal(self, sealed: bytes, name: str) -> bytes:
        """Return the plain bytes."""
        ...


class OpaqueTokens(Protocol):
    """Random tokens of 256 bits that are stored only as hashes. Each kind has an instance of its own."""

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


class StrangerThrottle(Protocol):
    """Slows down who presents API keys that nobody knows, by address and before anything is looked up."""

    def enter(self, address: str) -> int:
        """Count a key that is not at hand; return the seconds to wait, 0 when it may be looked up."""
        ...

    def leave(self, address: str) -> None:
        """Take the count back: the key was a real one."""
        ...
