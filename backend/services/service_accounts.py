"""Service accounts: made, listed, given a new secret, deleted. A secret leaves this module once, when it is made."""

from dataclasses import dataclass, replace

from backend.domain.attenuation import Reach, require_within
from backend.domain.audit import PLATFORM_CHAIN, Action, Actor, AuditEntry
from backend.domain.callers import Caller
from backend.domain.clock import Clock
from backend.domain.errors import NotFound
from backend.domain.ids import TenantId, new_id
from backend.domain.scopes import PLATFORM_ROLE_SCOPES, PlatformRole, Scope
from backend.domain.service_accounts import ID_PREFIX, ServiceAccount, audit_view, mint_secret
from backend.services.ports import CursorCodec, KeyHasher, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccountPage:
    """Service accounts, newest first."""

    accounts: tuple[ServiceAccount, ...]
    next_cursor: str | None


class ServiceAccountService:
    """What a tenant may do with its programs' accounts, and the operator with the platform's."""

    def __init__(self, *, unit: UnitOfWork, hasher: KeyHasher, cursors: CursorCodec, clock: Clock) -> None:
        self._unit = unit
        self._hasher = hasher
        self._cursors = cursors
        self._clock = clock

    async def create(self, caller: Caller, *, name: str, scopes: frozenset[Scope]) -> tuple[ServiceAccount, str]:
        """Make an account; return it and its secret, which nobody can ask for again.

        Raises:
            ScopeExceedsGrantor: the account would be wider than whoever makes it. Nobody in a tenant holds a scope of
                the platform.
        """
        require_within(Reach(scopes=scopes), caller.reach)
        account, secret = self._fresh(caller.tenant_id, name, scopes, None, caller.credential_id)
        await self._unit.service_accounts.add(account)
        await self._record(caller.tenant_id, caller.actor, Action.SERVICE_ACCOUNT_CREATED, None, account)
        return account, secret

    async def create_of_platform(self, actor: Actor, *, name: str, role: PlatformRole) -> tuple[ServiceAccount, str]:
        """Make an account above all tenants: only the operator's command line does."""
        account, secret = self._fresh(None, name, PLATFORM_ROLE_SCOPES[role], role, actor.id)
        await self._unit.service_accounts.add(account)
        await self._record(PLATFORM_CHAIN, actor, Action.SERVICE_ACCOUNT_CREATED, None, account)
        return account, secret

    async def rotate_secret(self, caller: Caller, account_id: str) -> tuple[ServiceAccount, str]:
        """Give an account a new secret; the old one and its tokens are refused from the next request on.

        Raises:
            NotFound: no such account, or another tenant's.
            ScopeExceedsGrantor: the account is wider than the caller, who would get hold of it.
        """
        account = await self._own(caller, account_id)
        require_within(Reach(scopes=account.scopes), caller.reach)
        return await self._rotate(caller.tenant_id, caller.actor, account)

    async def delete(self, caller: Caller, account_id: str) -> None:
        """Take an account away; its tokens are refused from the next request on.

        Raises:
            NotFound: no such account, or another tenant's.
        """
        account = await self._own(caller, account_id)
        await self._delete(caller.tenant_id, caller.actor, account)

    async def list_of_platform(self) -> list[ServiceAccount]:
        """Return the accounts above all tenants, newest first."""
        return await self._unit.service_accounts.list_of_platform()

    async def rotate_secret_of_platform(self, actor: Actor, client_id: str) -> tuple[ServiceAccount, str]:
        """Give an account above all tenants a new secret.

        Raises:
            NotFound: no such account.
        """
        return await self._rotate(PLATFORM_CHAIN, actor, await self._of_platform(client_id))

    async def delete_of_platform(self, actor: Actor, client_id: str) -> ServiceAccount:
        """Take an account above all tenants away.

        Raises:
            NotFound: no such account.
        """
        account = await self._of_platform(client_id)
        await self._delete(PLATFORM_CHAIN, actor, account)
        return account

    async def list(self, caller: Caller, *, cursor: str | None, limit: int) -> ServiceAccountPage:
        """Return a page of the tenant's accounts."""
        purpose = f"service-accounts:{caller.tenant_id}"
        after = self._cursors.decode(purpose, cursor) if cursor else None
        found = await self._unit.service_accounts.list(caller.tenant_id, after=after, limit=limit + 1)
        next_cursor = self._cursors.encode(purpose, found[limit - 1].id) if len(found) > limit else None
        return ServiceAccountPage(accounts=tuple(found[:limit]), next_cursor=next_cursor)

    async def _of_platform(self, client_id: str) -> ServiceAccount:
        account = await self._unit.service_accounts.by_client_id_of_all_tenants(client_id)
        if account is None or account.tenant_id is not None:
            raise NotFound("There is no service account of the platform with this id.")
        return account

    async def _rotate(self, chain: TenantId, actor: Actor, account: ServiceAccount) -> tuple[ServiceAccount, str]:
        secret = mint_secret()
        secret_hash, pepper_version = self._hasher.hash(secret)
        rotated = replace(
            account,
            secret_hash=secret_hash,
            pepper_version=pepper_version,
            generation=account.generation + 1,
            rotated_at=self._clock.now(),
        )
        await self._unit.service_accounts.set_secret(
            account.id,
            secret_hash=secret_hash,
            pepper_version=pepper_version,
            generation=rotated.generation,
            at=self._clock.now(),
        )
        await self._record(chain, actor, Action.SERVICE_ACCOUNT_ROTATED, account, rotated)
        return rotated, secret

    async def _delete(self, chain: TenantId, actor: Actor, account: ServiceAccount) -> None:
        await self._unit.service_accounts.delete(account.id, self._clock.now())
        await self._record(chain, actor, Action.SERVICE_ACCOUNT_DELETED, account, None)

    async def _own(self, caller: Caller, account_id: str) -> ServiceAccount:
        account = await self._unit.service_accounts.get(caller.tenant_id, account_id)
        if account is None:
            raise NotFound
        return account

    def _fresh(
        self,
        tenant_id: TenantId | None,
        name: str,
        scopes: frozenset[Scope],
        role: PlatformRole | None,
        created_by: str,
    ) -> tuple[ServiceAccount, str]:
        secret = mint_secret()
        secret_hash, pepper_version = self._hasher.hash(secret)
        account = ServiceAccount(
            id=new_id(ID_PREFIX),
            tenant_id=tenant_id,
            name=name,
            scopes=scopes,
            platform_role=role,
            secret_hash=secret_hash,
            pepper_version=pepper_version,
            generation=1,
            created_by=created_by,
            created_at=self._clock.now(),
            rotated_at=None,
            deleted_at=None,
        )
        return account, secret

    async def _record(
        self,
        chain: TenantId,
        actor: Actor,
        action: Action,
        before: ServiceAccount | None,
        after: ServiceAccount | None,
    ) -> None:
        entry = AuditEntry.of_change(actor, action, audit_view, before, after)
        await self._unit.audit.record(chain, entry)
