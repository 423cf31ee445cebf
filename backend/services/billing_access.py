"""Whose books a caller asks for: a tenant its own, the platform those of the tenant it names."""

from backend.domain.billing_periods import is_period
from backend.domain.callers import Caller, PlatformCaller
from backend.domain.errors import FieldError, Invalid, NotFound
from backend.domain.ids import TenantId
from backend.services.ports import Store


async def asked_tenant(store: Store, caller: Caller | PlatformCaller, named: str | None) -> TenantId | None:
    """Return whose books are meant; ``None`` when the platform names nobody.

    Raises:
        NotFound: there is no such tenant, or it is not the caller's.
    """
    if isinstance(caller, Caller):
        if named not in {None, caller.tenant_id}:
            raise NotFound
        return caller.tenant_id
    if named is None:
        return None
    async with store.unit_of_work(read_only=True) as unit:
        tenant = await unit.tenants.get(TenantId(named))
    if tenant is None:
        raise NotFound
    return tenant.id


async def required_tenant(store: Store, caller: Caller | PlatformCaller, named: str | None) -> TenantId:
    """Return whose books are meant.

    Raises:
        Invalid: the platform has to name a tenant.
        NotFound: there is no such tenant, or it is not the caller's.
    """
    tenant_id = await asked_tenant(store, caller, named)
    if tenant_id is None:
        raise Invalid(errors=(FieldError("/query/tenant_id", "is needed: this login is above all tenants"),))
    return tenant_id


def require_period(period: str, pointer: str = "/query/period") -> str:
    """Return a month as it was written.

    Raises:
        Invalid: it is none.
    """
    if not is_period(period):
        raise Invalid(errors=(FieldError(pointer, "must be a month, such as 2026-01"),))
    return period
