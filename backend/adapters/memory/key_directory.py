"""A cache of API keys before the store: with it, a warm prediction asks the store nothing.

It may serve a key for ``ttl_s`` after it was read. What changed meanwhile is caught by admission, which knows the
newest version of every credential and sends the caller back to :meth:`CachedKeyDirectory.reload`; where admission
lives in one process, what other processes changed is caught by the signal. A fill never replaces a newer version by
an older one, so a read that was under way while a key was revoked cannot bring it back.

While the store does not answer, a key goes on being served for a stated window after it should have been read again:
with the plan and the limits it had. Admission goes on knowing what was revoked; nobody can revoke anything meanwhile,
because that needs the store. A key that is in no memory cannot be served, and is not said to be wrong either.
"""

from typing import Protocol

from backend.adapters.memory.bounded_map import BoundedMap
from backend.adapters.memory.change_signal import ChangeSignal, NoSignal
from backend.adapters.single_flight import SingleFlight
from backend.domain.api_keys import KeyGrant
from backend.domain.clock import Clock
from backend.domain.errors import StoreUnavailable

NEGATIVE_TTL_S = 5.0
ASKED_AGAIN_AFTER_S = 1.0
"""How long after the store has failed for a key it is asked for that key again."""
RECHECKS_PER_S = 10
"""How often refusals of one key may have the store asked."""


class KeySource(Protocol):
    """Where a key is read when the cache does not hold it."""

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now."""
        ...


class CachedKeyDirectory:
    """Grants by key id, bounded in number and in age; unknown ids are remembered for a shorter time.

    Args:
        store: asked for what is not in memory.
        clock: decides ages.
        ttl_s: how long a grant is served without asking.
        stale_for_s: how much longer while the store does not answer.
        max_keys: bound on keys that exist.
        max_unknown: bound on ids that do not.
        signal: tells of changes by other processes without Redis.
    """

    def __init__(
        self,
        store: KeySource,
        clock: Clock,
        *,
        ttl_s: float,
        stale_for_s: float = 0.0,
        max_keys: int = 100_000,
        max_unknown: int = 10_000,
        signal: ChangeSignal | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_s
        self._stale_for_s = stale_for_s
        self._max_keys = max_keys
        self._max_unknown = max_unknown
        self._signal = signal or NoSignal()
        self._rechecks: BoundedMap[tuple[str, int], int] = BoundedMap(max_unknown)
        self._reads = SingleFlight()
        self._begin_anew()

    def holds(self, lookup_id: str) -> bool:
        """Whether the key is in memory, known to exist."""
        now_s = self._clock.now_s()
        return self._known.get(lookup_id, now_s) is not None or self._stale.get(lookup_id, now_s) is not None

    def cached(self, lookup_id: str) -> KeyGrant | None:
        """Return the key where it is in memory and need not be read again."""
        if self._signal.position() != self._position:
            self._begin_anew()
        return self._known.get(lookup_id, self._clock.now_s())

    async def find(self, lookup_id: str) -> KeyGrant | None:
        """Return the key of that id, possibly as cached; ``None`` when there is none."""
        grant = self.cached(lookup_id)
        if grant is not None:
            return grant
        now_s = self._clock.now_s()
        if self._unknown.get(lookup_id, now_s):
            return None
        try:
            await self._reads.run(lookup_id, lambda: self._fill(lookup_id))
        except StoreUnavailable:
            return self._find_stale(lookup_id)
        return self._known.get(lookup_id, now_s)

    async def reload(self, lookup_id: str) -> KeyGrant | None:
        """Return the key as the store holds it now, and cache that."""
        # Not joined to a read that began earlier: that one may have seen the state before the change.
        await self._fill(lookup_id)
        return self._known.get(lookup_id, self._clock.now_s())

    async def recheck(self, lookup_id: str) -> KeyGrant | None:
        """Return the key for a caller whom the cached copy refuses; the store is asked so many times a second."""
        now_s = self._clock.now_s()
        second = (lookup_id, int(now_s))
        asked = self._rechecks.get(second, now_s) or 0
        if asked >= RECHECKS_PER_S:
            return self._known.get(lookup_id, now_s)
        self._rechecks.put(second, asked + 1, expires_at_s=now_s + 1)
        return await self.reload(lookup_id)

    def _find_stale(self, lookup_id: str) -> KeyGrant | None:
        """Return what the store said last; it is asked again in a moment, not by everybody at once."""
        now_s = self._clock.now_s()
        grant = self._stale.get(lookup_id, now_s)
        if grant is None:
            raise StoreUnavailable(retry_after_s=1)
        self._known.put(lookup_id, grant, expires_at_s=now_s + ASKED_AGAIN_AFTER_S)
        return grant

    def _begin_anew(self) -> None:
        """Forget everything: another process changed something, and did not say what."""
        self._position = self._signal.position()
        self._known: BoundedMap[str, KeyGrant] = BoundedMap(self._max_keys)
        # The same grants, for longer: only read while the store does not answer.
        self._stale: BoundedMap[str, KeyGrant] = BoundedMap(self._max_keys)
        # A map of its own: a flood of invented ids must not push real keys out.
        self._unknown: BoundedMap[str, bool] = BoundedMap(self._max_unknown)

    async def _fill(self, lookup_id: str) -> None:
        grant = await self._read(lookup_id)
        expires_at_s = self._clock.now_s()
        if grant is None:
            self._known.discard(lookup_id)
            self._stale.discard(lookup_id)
            self._unknown.put(lookup_id, True, expires_at_s=expires_at_s + NEGATIVE_TTL_S)
            return
        self._unknown.discard(lookup_id)
        cached = self._known.get(lookup_id, self._clock.now_s())
        if cached is None or _versions(cached) <= _versions(grant):
            expires_at_s += self._ttl_s
            stale_until_s = expires_at_s + self._stale_for_s
            if grant.plan_ends_at is not None:
                # Not even stale: another price holds from then on.
                plan_ends_at_s = grant.plan_ends_at.timestamp()
                expires_at_s, stale_until_s = min(expires_at_s, plan_ends_at_s), min(stale_until_s, plan_ends_at_s)
            self._known.put(lookup_id, grant, expires_at_s=expires_at_s)
            self._stale.put(lookup_id, grant, expires_at_s=stale_until_s)

    async def _read(self, lookup_id: str) -> KeyGrant | None:
        """Read the store, again if another process changed something meanwhile: the read may be from before."""
        while True:
            position = self._signal.position()
            grant = await self._store.reload(lookup_id)
            if self._signal.position() == position:
                return grant


def _versions(grant: KeyGrant) -> tuple[int, int]:
    return grant.tenant_version, grant.key.version
