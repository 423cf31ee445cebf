"""The one place that spells a response cache key."""

from functools import lru_cache
from hashlib import blake2b

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.models import ModelInfo, OutputOptions


def cache_key_prefix(
    tenant_id: TenantId, environment: Environment, model: ModelInfo, options: OutputOptions
) -> "blake2b":
    """Return the hash state that all rows of a request share; to be copied, not written to.

    The tenant, the model's bytes, its input schema (through the manifest's digest of both) and the outputs asked for
    are all in it, so that a row's answer can only ever be found by the same question. Test keys have a cache of their
    own: their free answers must not make a live answer free.
    """
    return _state(tenant_id, environment, model.name, model.version, model.digest, str(options.probabilities))


@lru_cache(maxsize=4096)
def _state(*parts: str) -> "blake2b":
    # The same for request after request.
    state = blake2b(digest_size=20)
    for part in parts:
        encoded = part.encode()
        state.update(len(encoded).to_bytes(4, "big") + encoded)
    return state


def cache_key(prefix: "blake2b", row: bytes) -> bytes:
    """Return the key of one canonical row: a digest, which says nothing about the row."""
    state = prefix.copy()
    state.update(row)
    return state.digest()
