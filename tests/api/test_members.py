"""Members and the tenant they belong to, in both shapes."""

import asyncio
from typing import Any

import pytest
from httpx import Response

from backend.domain.scopes import Role, Scope
from tests.api.conftest import TenantUnderTest, World
from tests.api.test_predictions import pointers, problem
from tests.api.trails import actions, trail

pytestmark = pytest.mark.anyio

Headers = dict[str, str]


async def owner_of(world: World, tenant: TenantUnderTest) -> Headers:
    return await world.log_in(tenant.owner_email)


async def members(world: World, headers: Headers) -> dict[str, dict[str, Any]]:
    """Return the tenant's members by their address."""
    answer = await world.client.get("/v1/members?limit=100", headers=headers)
    assert answer.status_code == 200, answer.text
    return {member["email"]: member for member in answer.json()["data"]}


async def seat(world: World, headers: Headers, email: str, role: str) -> Response:
    member_id = (await members(world, headers))[email]["id"]
    return await world.client.patch(f"/v1/members/{member_id}", json={"role": role}, headers=headers)


async def test_members_are_listed_oldest_first_page_by_page(world: World) -> None:
    tenant = await world.tenant()
    emails = [tenant.owner_email, *[await world.member(tenant, Role.VIEWER) for _ in range(4)]]
    owner = await owner_of(world, tenant)
    seen, cursor = [], ""
    while True:
        page = (await world.client.get(f"/v1/members?limit=2{cursor}", headers=owner)).json()
        seen.extend(page["data"])
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [member["email"] for member in seen] == emails
    assert {*seen[0]} == {"id", "user_id", "email", "role", "disabled", "created_at"}
    assert seen[0]["id"].startswith("mem_")


async def test_a_page_of_another_tenants_members_cannot_be_asked_for(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    await world.member(first, Role.VIEWER)
    page = (await world.client.get("/v1/members?limit=1", headers=await owner_of(world, first))).json()
    answer = await world.client.get(f"/v1/members?cursor={page['next_cursor']}", headers=await owner_of(world, second))
    assert problem(answer) == (422, "validation-failed")


async def test_j9_a_role_counts_on_the_next_request(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.ADMIN)
    owner, admin = await owner_of(world, tenant), await world.log_in(email)
    assert (await world.client.get("/v1/audit-log", headers=admin)).status_code == 200
    answer = await seat(world, owner, email, "viewer")
    assert answer.status_code == 200
    assert answer.json()["role"] == "viewer"
    assert problem(await world.client.get("/v1/audit-log", headers=admin)) == (403, "insufficient-scope")
    record = (await trail(world, tenant.id))[-1].entry
    assert record.action == "member.updated"
    assert (record.before["role"], record.after["role"]) == ("admin", "viewer")


async def test_the_same_role_again_changes_nothing(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.VIEWER)
    owner = await owner_of(world, tenant)
    before = await actions(world, tenant.id)
    assert (await seat(world, owner, email, "viewer")).status_code == 200
    assert await actions(world, tenant.id) == before


async def test_a_removed_member_is_out_on_the_next_request(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.DEVELOPER)
    owner, developer = await owner_of(world, tenant), await world.log_in(email)
    member_id = (await members(world, owner))[email]["id"]
    answer = await world.client.delete(f"/v1/members/{member_id}", headers=owner)
    assert (answer.status_code, answer.content) == (204, b"")
    assert problem(await world.client.get("/v1/me", headers=developer)) == (401, "invalid-credentials")
    assert email not in await members(world, owner)
    again = await world.client.delete(f"/v1/members/{member_id}", headers=owner)
    assert problem(again) == (404, "not-found")
    assert (await actions(world, tenant.id))[-1] == "member.removed"


async def test_a8_the_last_owner_is_neither_demoted_nor_removed(world: World) -> None:
    tenant = await world.tenant()
    owner = await owner_of(world, tenant)
    before = await actions(world, tenant.id)
    assert problem(await seat(world, owner, tenant.owner_email, "admin")) == (409, "last-owner")
    member_id = (await members(world, owner))[tenant.owner_email]["id"]
    answer = await world.client.delete(f"/v1/members/{member_id}", headers=owner)
    assert problem(answer) == (409, "last-owner")
    assert await actions(world, tenant.id) == before


async def test_a8_an_owner_who_is_locked_out_does_not_count(world: World) -> None:
    tenant = await world.tenant()
    other = await world.member(tenant, Role.OWNER)
    async with world._unit() as (tenants, _):
        await tenants.set_disabled(other, disabled=True)
    owner = await owner_of(world, tenant)
    assert problem(await seat(world, owner, tenant.owner_email, "admin")) == (409, "last-owner")
    assert (await seat(world, owner, other, "viewer")).status_code == 200


async def test_a8_two_owners_who_demote_each_other_at_once_leave_one(world: World) -> None:
    for _ in range(5):
        tenant = await world.tenant()
        other = await world.member(tenant, Role.OWNER)
        first, second = await owner_of(world, tenant), await world.log_in(other)
        ids = {email: member["id"] for email, member in (await members(world, first)).items()}
        answers = await asyncio.gather(
            world.client.patch(f"/v1/members/{ids[other]}", json={"role": "admin"}, headers=first),
            world.client.patch(f"/v1/members/{ids[tenant.owner_email]}", json={"role": "admin"}, headers=second),
        )
        # The second one's caller was an owner when it was verified, or an admin already.
        assert sorted(answer.status_code for answer in answers) in ([200, 409], [200, 403])
        roles = [member["role"] for member in (await members(world, first)).values()]
        assert sorted(roles) == ["admin", "owner"]


async def test_a8_two_owners_who_leave_at_once_leave_one(world: World) -> None:
    tenant = await world.tenant()
    other = await world.member(tenant, Role.OWNER)
    first, second = await owner_of(world, tenant), await world.log_in(other)
    ids = {email: member["id"] for email, member in (await members(world, first)).items()}
    answers = await asyncio.gather(
        world.client.delete(f"/v1/members/{ids[tenant.owner_email]}", headers=first),
        world.client.delete(f"/v1/members/{ids[other]}", headers=second),
    )
    assert sorted(answer.status_code for answer in answers) == [204, 409]


@pytest.mark.parametrize("role", ["owner", "admin", "developer", "billing", "viewer"])
async def test_an_owner_may_give_any_role(world: World, role: str) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.DEVELOPER)
    assert (await seat(world, await owner_of(world, tenant), email, role)).status_code == 200


async def test_a6_only_an_owner_makes_or_changes_owners(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.ADMIN)
    await world.member(tenant, Role.OWNER)
    admin = await world.log_in(email)
    before = await actions(world, tenant.id)
    assert problem(await seat(world, admin, email, "owner")) == (403, "role-not-grantable")
    assert problem(await seat(world, admin, tenant.owner_email, "viewer")) == (403, "role-not-grantable")
    owner_id = (await members(world, admin))[tenant.owner_email]["id"]
    answer = await world.client.delete(f"/v1/members/{owner_id}", headers=admin)
    assert problem(answer) == (403, "role-not-grantable")
    assert await actions(world, tenant.id) == before


async def test_a6_a_narrow_credential_gives_and_takes_only_roles_within_its_scopes(world: World) -> None:
    tenant = await world.tenant()
    billing, admin = await world.member(tenant, Role.BILLING), await world.member(tenant, Role.ADMIN)
    scopes = frozenset(
        {Scope.MEMBERS_READ, Scope.MEMBERS_WRITE, Scope.USAGE_READ, Scope.USAGE_EXPORT, Scope.LIMITS_READ}
    )
    key = await world.key(tenant, scopes=scopes)
    assert problem(await seat(world, key.headers, billing, "developer")) == (403, "role-not-grantable")
    assert problem(await seat(world, key.headers, admin, "billing")) == (403, "role-not-grantable")
    assert (await seat(world, key.headers, billing, "billing")).status_code == 200


async def test_a1_another_tenants_member_is_not_found(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    owner, stranger = await owner_of(world, first), await owner_of(world, second)
    member_id = (await members(world, owner))[first.owner_email]["id"]
    path = f"/v1/members/{member_id}"
    assert problem(await world.client.patch(path, json={"role": "viewer"}, headers=stranger)) == (404, "not-found")
    assert problem(await world.client.delete(path, headers=stranger)) == (404, "not-found")


async def test_a_member_of_two_tenants_keeps_the_other_seat(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    email = await world.member(first, Role.VIEWER)
    async with world._unit() as (tenants, _):
        user = await tenants._unit.users.by_email(email)
        assert user is not None
        await tenants.seat(second.id, user.id, Role.VIEWER)
    elsewhere = await world.log_in(email, tenant=second.slug)
    owner = await owner_of(world, first)
    member_id = (await members(world, owner))[email]["id"]
    await world.client.delete(f"/v1/members/{member_id}", headers=owner)
    answer = await world.client.get("/v1/me", headers=elsewhere)
    assert answer.json()["tenant"]["slug"] == second.slug


@pytest.mark.parametrize("body", [{}, {"role": "king"}, {"role": "viewer", "user_id": "usr_1"}, {"role": None}])
async def test_a4_a_body_that_is_not_a_role_is_refused(world: World, body: dict[str, Any]) -> None:
    tenant = await world.tenant()
    owner = await owner_of(world, tenant)
    member_id = (await members(world, owner))[tenant.owner_email]["id"]
    answer = await world.client.patch(f"/v1/members/{member_id}", json=body, headers=owner)
    assert problem(answer) == (422, "validation-failed")


# ------------------------------------------------------------------------------------------- the tenant itself


async def test_every_member_reads_the_tenant(world: World) -> None:
    tenant = await world.tenant("pro")
    viewer = await world.log_in(await world.member(tenant, Role.BILLING))
    body = (await world.client.get("/v1/tenant", headers=viewer)).json()
    assert body.pop("created_at").endswith("Z")
    assert body == {
        "id": tenant.id,
        "slug": tenant.slug,
        "name": tenant.slug,
        "status": "active",
        "plan": "pro",
    }


async def test_owners_rename_the_tenant(world: World) -> None:
    tenant = await world.tenant()
    owner = await owner_of(world, tenant)
    answer = await world.client.patch("/v1/tenant", json={"name": " Björk & Co. "}, headers=owner)
    assert answer.status_code == 200
    assert answer.json()["name"] == "Björk & Co."
    assert (await world.client.get("/v1/tenant", headers=owner)).json()["name"] == "Björk & Co."
    record = (await trail(world, tenant.id))[-1].entry
    assert (record.action, record.before, record.after) == (
        "tenant.updated",
        {"name": tenant.slug},
        {"name": "Björk & Co."},
    )


@pytest.mark.parametrize(
    "field", ["plan", "plan_id", "status", "slug", "id", "role", "tenant_id", "version", "used", "created_by"]
)
async def test_a4_what_the_operator_decides_cannot_be_written(world: World, field: str) -> None:
    tenant = await world.tenant()
    owner = await owner_of(world, tenant)
    answer = await world.client.patch("/v1/tenant", json={"name": "Acme", field: "x"}, headers=owner)
    assert problem(answer) == (422, "validation-failed")
    assert (await world.client.get("/v1/tenant", headers=owner)).json()["name"] == tenant.slug


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines", "\x00", 7, None])
async def test_a_name_is_one_line_of_text(world: World, name: Any) -> None:
    tenant = await world.tenant()
    answer = await world.client.patch("/v1/tenant", json={"name": name}, headers=await owner_of(world, tenant))
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/name"]
