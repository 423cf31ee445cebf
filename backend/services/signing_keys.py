"""The keys that sign access tokens, as the operator changes them."""

from datetime import timedelta

from backend.domain.audit import OPERATOR, PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.clock import Clock
from backend.services.ports import SigningKeySmith, UnitOfWork
from backend.services.ports.store import StoredSigningKey

KEPT_AFTER_RETIREMENT = timedelta(minutes=30)
"""How long a retired key still verifies: the longest token lifetime (15 minutes), and as long again for servers that
go on signing with it until they have noticed."""


def still_verifies(key: StoredSigningKey, clock: Clock) -> bool:
    """Whether tokens of a key may still be alive."""
    return key.retired_at is None or clock.now() < key.retired_at + KEPT_AFTER_RETIREMENT


class SigningKeyService:
    """Rotates signing keys, and forgets those that verify nothing any more."""

    def __init__(self, *, unit: UnitOfWork, smith: SigningKeySmith, clock: Clock, actor: Actor = OPERATOR) -> None:
        self._unit = unit
        self._smith = smith
        self._clock = clock
        self._actor = actor

    async def rotate(self) -> StoredSigningKey:
        """Make the key that signs from now on. The others only verify, until the last of their tokens has expired."""
        now = self._clock.now()
        await self._unit.signing_keys.hold()
        before = [key for key in await self._unit.signing_keys.list_all() if key.retired_at is None]
        made = self._smith.make(now)
        await self._unit.signing_keys.add(made)
        for key in before:
            await self._unit.signing_keys.retire(key.kid, now)
        entry = AuditEntry(
            actor=self._actor,
            action=Action.SIGNING_KEY_ROTATED,
            target_id=made.kid,
            before={"kids": [key.kid for key in before]},
            after={"kids": [made.kid]},
        )
        await self._unit.audit.record(PLATFORM_CHAIN, entry)
        return made

    async def prune(self) -> int:
        """Forget the keys whose tokens have all expired; return how many."""
        return await self._unit.signing_keys.forget_retired_before(self._clock.now() - KEPT_AFTER_RETIREMENT)
