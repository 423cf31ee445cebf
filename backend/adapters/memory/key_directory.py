"""A cache of API keys before the store: with it, a warm prediction asks the store nothing.

It may serve a key for ``ttl_s`` after it was read. What changed meanwhile is caught by admission, which knows the
newest version of every credential and sends the caller back to :meth:`CachedKeyDirectory.reload`. A fill never
replaces a newer version by an older one, so a read that was under way while a key was revoked cannot bring it back.
"""

from backend.adapters.memory.bounded_map import BoundedMap
from backend.adapters.single_flight import SingleFlight
from backend.domain.api_keys import KeyGrant
from backend.domain.clock import Clock
from backend.services.ports import KeyDirectory

NEGATIVE_TTL_S = 5.0


class CachedKeyDirectory:
    """Grants by key id, bounded in number and in age; unknown ids are remembered for a shorter time."""

    def __init__(
        self, store: KeyDirectory, clock: Clock, *, ttl_s: float, max_keys: int = 100_000, max_unknown: int = 10_000
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._known: BoundedMap[str, KeyGrant] = BoundedMap(max_keys)
        # A map of its own: a flood of invented ids must not push real keys out.
        self._unknown: BoundedMap[str, bool] = BoundedMap(max_unknown)
        self._reads = SingleFlight()

    async def find(self, lookup_id: str) -> KeyGrant | None:
        """Return the key of that id, possibly as cached; ``None`` when there is none."""
        now_s = self._clock.now_s()
        grant = self._known.get(lookup_id, now_s)
        if grant is not None:
            return grant
        if self._unknown.get(lookup_id, now_s):
            return None
        await self._reads.run(lookup_id, lambda: self._fill(lookup_id))
        return self._known.get(lookup_id, now_s)

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now, and cache that."""
        # Not joined to a read that began earlier: that one may have seen the state before the change.
        await self._fill(lookup_id)
        return self._known.get(lookup_id, self._clock.now_s())

    async def _fill(self, lookup_id: str) -> None:
        grant = await self._store.reload(lookup_id)
        expires_at_s = self._clock.now_s()
        if grant is None:
            self._known.discard(lookup_id)
            self._unknown.put(lookup_id, True, expires_at_s=expires_at_s + NEGATIVE_TTL_S)
            return
        self._unknown.discard(lookup_id)
        cached = self._known.get(lookup_id, self._clock.now_s())
        if cached is None or _versions(cached) <= _versions(grant):
            self._known.put(lookup_id, grant, expires_at_s=expires_at_s + self._ttl_s)


def _versions(grant: KeyGrant) -> tuple[int, int]:
    return grant.tenant_version, grant.key.version
