"""The newest announced version of each tenant and credential, in memory."""

from backend.adapters.memory.bounded_map import BoundedMap
from backend.domain.admission import Epochs
from backend.domain.ids import TenantId


class KnownEpochs:
    """What is not known is stale: forgetting one costs a look at the store, never a revoked key that still works."""

    def __init__(self, limit: int) -> None:
        self._versions: BoundedMap[tuple[str, str | None], int] = BoundedMap(limit)

    def are_stale(self, tenant_id: TenantId, credential_id: str, given: Epochs) -> bool:
        """Whether the credential has moved on since the given versions were read.

        Fresh ones are announced first, never backwards, so that a read from before a revocation stays stale.
        """
        if given.fresh:
            self.announce(tenant_id, None, given.tenant)
            self.announce(tenant_id, credential_id, given.credential)
        tenant = self._versions.get((tenant_id, None))
        credential = self._versions.get((tenant_id, credential_id))
        if tenant is None or credential is None:
            return True
        return tenant > given.tenant or credential > given.credential

    def announce(self, tenant_id: TenantId, credential_id: str | None, version: int) -> None:
        """Remember a version unless a newer one is known."""
        known = self._versions.get((tenant_id, credential_id))
        if known is None or known < version:
            self._versions.put((tenant_id, credential_id), version)
