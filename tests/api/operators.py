"""Callers above all tenants: the operator's people and programs."""

from typing import Any

from httpx import Response

from backend.domain.audit import OPERATOR
from backend.domain.scopes import PlatformRole
from backend.services.service_accounts import ServiceAccountService
from tests.api.conftest import PASSWORD, TenantUnderTest, World, a_new_number

Headers = dict[str, str]


async def platform_program(world: World, role: PlatformRole = PlatformRole.OPERATOR) -> Headers:
    """Sign in as a service account of the platform."""
    resources = world.resources
    async with resources.store.unit_of_work() as unit:
        service = ServiceAccountService(
            unit=unit, hasher=resources.key_hasher, cursors=resources.cursor_codec, clock=resources.clock
        )
        account, secret = await service.create_of_platform(OPERATOR, name=role, role=role)
    answer = await world.token(grant_type="client_credentials", client_id=account.id, client_secret=secret)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def platform_person(world: World, role: PlatformRole = PlatformRole.OPERATOR) -> Headers:
    """Sign in as one of the operator's people."""
    email = f"{role}{a_new_number()}@platform.example"
    async with world._unit() as (tenants, _):
        await tenants.add_user(email=email, password=PASSWORD, platform_role=role)
    return await world.log_in(email)


async def subscribed(world: World, operator: Headers, tenant: TenantUnderTest, plan: str, **body: Any) -> Response:
    """Put a tenant on a plan, as the operator does."""
    path = f"/v1/admin/tenants/{tenant.id}/subscription"
    return await world.client.put(path, json={"plan": plan, **body}, headers=operator)
