"""Whose rows a transaction may touch, on PostgreSQL even where a query forgets to ask.

Row-level security (migration 0005) shows a transaction the rows of the tenant in ``app.tenant_id`` and no others. The
value is set for one transaction only, so a pooled connection carries nothing over. A repository that is marked with
:func:`tenant_rows` sets it by itself: a method whose first argument is ``tenant_id`` touches that tenant's rows, and
any other has to say with :func:`of_all_tenants` that it looks across tenants. There is no third kind.

A unit of work belongs to one tenant: a second one in it is a mistake, and refused on either database, unless the unit
was opened for all tenants.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from backend.domain.audit import PLATFORM_CHAIN
from backend.domain.ids import TenantId

Method = TypeVar("Method", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)

_SET_TENANT = text("SELECT set_config('app.tenant_id', :tenant, true)")
_SET_PLATFORM = text("SELECT set_config('app.platform', :state, true)")
_SEEN = "forecourt_rows"
_EVERYBODY = "*"
_ESCAPES = "__of_all_tenants__"


class SecondTenantError(Exception):
    """A unit of work that belongs to one tenant was used for another."""


class Repository(Protocol):
    """What works on a session."""

    _session: AsyncSession


async def see_tenant(session: AsyncSession, tenant_id: TenantId) -> None:
    """Let the session's transaction touch the rows of a tenant, and no others.

    Raises:
        SecondTenantError: it belongs to another tenant already.
    """
    seen = session.info.get(_SEEN)
    if seen in {tenant_id, _EVERYBODY}:
        return
    if seen is not None:
        raise SecondTenantError("one unit of work touches the rows of one tenant")
    session.info[_SEEN] = tenant_id
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(_SET_TENANT, {"tenant": tenant_id})


async def see_all_tenants(session: AsyncSession) -> None:
    """Let the session's transaction touch every row until it ends."""
    session.info[_SEEN] = _EVERYBODY
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(_SET_PLATFORM, {"state": "on"})


async def show_tenant(connection: AsyncConnection, tenant_id: TenantId) -> None:
    """The same as :func:`see_tenant` for the transaction that begins on a connection."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_SET_TENANT, {"tenant": tenant_id})


async def show_all_tenants(connection: AsyncConnection) -> None:
    """The same as :func:`see_all_tenants` for the transaction that begins on a connection."""
    if connection.dialect.name == "postgresql":
        await connection.execute(_SET_PLATFORM, {"state": "on"})


def of_all_tenants(method: Method) -> Method:
    """Mark a repository's method that looks across tenants: before it is known whose row it is, or for the platform."""

    @wraps(method)
    async def across(self: Repository, *args: Any, **kwargs: Any) -> Any:
        async with _across_tenants(self._session):
            return await method(self, *args, **kwargs)

    setattr(across, _ESCAPES, True)
    return cast("Method", across)


def tenant_rows(repository: Class) -> Class:
    """Mark a repository of rows that belong to tenants, and hold each of its methods to the tenant it is given."""
    for name, method in list(vars(repository).items()):
        if name.startswith("_") or not callable(method) or getattr(method, _ESCAPES, False):
            continue
        if list(inspect.signature(method).parameters)[1:2] != ["tenant_id"]:
            raise TypeError(f"{repository.__name__}.{name} does not say whose rows it touches")
        setattr(repository, name, _held_to_tenant(method))
    return repository


def _held_to_tenant(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(method):

        @wraps(method)
        async def walk(self: Repository, tenant_id: TenantId, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with _rows_of(self._session, tenant_id):
                async for each in method(self, tenant_id, *args, **kwargs):
                    yield each

        return walk

    @wraps(method)
    async def call(self: Repository, tenant_id: TenantId, *args: Any, **kwargs: Any) -> Any:
        async with _rows_of(self._session, tenant_id):
            return await method(self, tenant_id, *args, **kwargs)

    return call


@asynccontextmanager
async def _rows_of(session: AsyncSession, tenant_id: TenantId) -> AsyncIterator[None]:
    if tenant_id == PLATFORM_CHAIN:
        # What concerns no tenant is recorded in units that belong to one, such as a user who joins it.
        async with _across_tenants(session):
            yield
        return
    await see_tenant(session, tenant_id)
    yield


@asynccontextmanager
async def _across_tenants(session: AsyncSession) -> AsyncIterator[None]:
    """Look across tenants, and no longer than this block."""
    if session.info.get(_SEEN) == _EVERYBODY or session.get_bind().dialect.name != "postgresql":
        yield
        return
    await session.execute(_SET_PLATFORM, {"state": "on"})
    yield
    # After an exception the transaction ends anyhow, and would refuse this.
    await session.execute(_SET_PLATFORM, {"state": "off"})
