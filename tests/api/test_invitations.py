"""Invitations, in both shapes: offered, mailed, taken once."""

import asyncio
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import text

from backend.adapters.db.row_security import see_all_tenants
from backend.domain.scopes import Role, Scope
from backend.domain.tenants import TenantStatus
from tests.api.conftest import PASSWORD, ClockedWorld, TenantUnderTest, World
from tests.api.mailbox import letters_to
from tests.api.test_predictions import pointers, problem
from tests.api.trails import actions, trail

pytestmark = pytest.mark.anyio

Headers = dict[str, str]
NEW_PASSWORD = "nine green tortoises sing"
A_WEEK_S = 7 * 86_400


async def invite(world: World, headers: Headers, email: str, role: str = "developer") -> Response:
    return await world.client.post("/v1/invitations", json={"email": email, "role": role}, headers=headers)


async def invited(world: World, tenant: TenantUnderTest, email: str, role: str = "developer") -> tuple[str, str]:
    """Invite an address; return the invitation's id and the token that was mailed."""
    answer = await invite(world, await world.log_in(tenant.owner_email), email, role)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], (await letters_to(world, email))[-1].token


async def accept(world: World, token: str, password: str | None = None, headers: Headers | None = None) -> Response:
    body = {"token": token} if password is None else {"token": token, "password": password}
    return await world.client.post("/v1/invitations/accept", json=body, headers=headers or {})


def somebody(tenant: TenantUnderTest, name: str = "ada") -> str:
    return f"{name}@friends-of-{tenant.slug}.example"


async def test_a_new_person_takes_the_seat_and_signs_in(world: World) -> None:
    tenant = await world.tenant()
    email = somebody(tenant)
    answer = await invite(world, await world.log_in(tenant.owner_email), email.upper())
    assert answer.status_code == 201
    body = answer.json()
    assert body["id"].startswith("inv_")
    assert (body["email"], body["role"], body["status"]) == (email, "developer", "pending")
    [letter] = await letters_to(world, email)
    taken = await accept(world, letter.token, NEW_PASSWORD)
    assert taken.status_code == 200, taken.text
    assert (taken.json()["role"], taken.json()["tenant_slug"]) == ("developer", tenant.slug)
    login = await world.token(username=email, password=NEW_PASSWORD)
    assert login.status_code == 200
    me = await world.client.get("/v1/me", headers={"Authorization": f"Bearer {login.json()['access_token']}"})
    assert (me.json()["email"], me.json()["role"], me.json()["tenant"]["slug"]) == (email, "developer", tenant.slug)


async def test_every_step_is_audited_once_and_holds_no_token(world: World) -> None:
    tenant = await world.tenant()
    before = len(await actions(world, tenant.id))
    invitation_id, token = await invited(world, tenant, somebody(tenant))
    taken = await accept(world, token, NEW_PASSWORD)
    started, created, accepted = [record.entry for record in (await trail(world, tenant.id))[before:]]
    assert [started.action, created.action, accepted.action] == [
        "session.started",
        "invitation.created",
        "invitation.accepted",
    ]
    assert created.target_id == accepted.target_id == invitation_id
    assert accepted.actor.kind == "user"
    assert accepted.actor.id == accepted.after["user_id"] == taken.json()["user_id"]
    assert token not in str(created) + str(accepted)


async def test_p7_the_token_has_256_bits_and_is_stored_as_a_hash_alone(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    _, other = await invited(world, tenant, somebody(tenant, "bob"))
    assert token != other
    assert len(token.removeprefix("fm_")) == 43
    async with world.resources.store.session() as session:  # type: ignore[attr-defined]
        await see_all_tenants(session)
        rows = (await session.execute(text("SELECT * FROM invitations"))).all()
    assert rows
    assert token not in str(rows)


async def test_p7_the_token_stands_in_no_answer(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    created = await invite(world, owner, somebody(tenant))
    [letter] = await letters_to(world, somebody(tenant))
    listed = await world.client.get("/v1/invitations", headers=owner)
    assert letter.token not in created.text + listed.text
    assert "hash" not in created.text + listed.text


async def test_p7_the_link_uses_the_configured_host_and_never_the_requests(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    evil = {**owner, "Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    assert (await invite(world, evil, somebody(tenant))).status_code == 201
    [letter] = await letters_to(world, somebody(tenant))
    assert letter.link == f"{world.resources.settings.public_url}/accept-invitation"
    assert "evil" not in letter.text


async def test_p7_a_token_is_good_once(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    assert (await accept(world, token, NEW_PASSWORD)).status_code == 200
    assert problem(await accept(world, token, NEW_PASSWORD)) == (410, "invitation-expired")


async def test_p7_of_many_at_once_one_takes_the_seat(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    answers = await asyncio.gather(*[accept(world, token, NEW_PASSWORD) for _ in range(8)])
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 403, 409, 410}
    assert (await actions(world, tenant.id)).count("invitation.accepted") == 1


async def test_an_unknown_token_is_not_found(world: World) -> None:
    assert problem(await accept(world, "fm_" + "A" * 43, NEW_PASSWORD)) == (404, "not-found")


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": 7}, {"token": "x", "tenant_id": "y"}, {"token": "x" * 201}]
)
async def test_a_body_that_is_no_acceptance_is_refused(world: World, body: dict[str, Any]) -> None:
    answer = await world.client.post("/v1/invitations/accept", json=body)
    assert problem(answer) == (422, "validation-failed")


async def test_an_invitation_expires_after_a_week(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    email = somebody(tenant)
    _, token = await invited(world, tenant, email)
    world.clock.advance(A_WEEK_S)
    assert problem(await accept(world, token, NEW_PASSWORD)) == (410, "invitation-expired")
    owner = await world.log_in(tenant.owner_email)
    [listed] = (await world.client.get("/v1/invitations", headers=owner)).json()["data"]
    assert listed["status"] == "expired"
    _, token = await invited(world, tenant, email)
    world.clock.advance(A_WEEK_S - 1)
    assert (await accept(world, token, NEW_PASSWORD)).status_code == 200


async def test_an_invitation_can_be_taken_back(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    invitation_id, token = await invited(world, tenant, somebody(tenant))
    answer = await world.client.delete(f"/v1/invitations/{invitation_id}", headers=owner)
    assert (answer.status_code, answer.content) == (204, b"")
    assert problem(await accept(world, token, NEW_PASSWORD)) == (410, "invitation-expired")
    again = await world.client.delete(f"/v1/invitations/{invitation_id}", headers=owner)
    assert again.status_code == 204
    assert (await actions(world, tenant.id)).count("invitation.revoked") == 1


async def test_inviting_again_sends_again_and_the_older_token_counts_no_more(world: World) -> None:
    tenant = await world.tenant()
    email = somebody(tenant)
    _, older = await invited(world, tenant, email)
    _, newer = await invited(world, tenant, email, "viewer")
    assert len(await letters_to(world, email)) == 2
    assert problem(await accept(world, older, NEW_PASSWORD)) == (410, "invitation-expired")
    assert (await accept(world, newer, NEW_PASSWORD)).json()["role"] == "viewer"


async def test_the_same_idempotency_key_twice_mails_once(world: World) -> None:
    tenant = await world.tenant()
    email = somebody(tenant)
    headers = {**await world.log_in(tenant.owner_email), "Idempotency-Key": "invite ada"}
    first, second = await invite(world, headers, email), await invite(world, headers, email)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert len(await letters_to(world, email)) == 1


async def test_a_member_is_not_invited(world: World) -> None:
    tenant = await world.tenant()
    email = await world.member(tenant, Role.VIEWER)
    answer = await invite(world, await world.log_in(tenant.owner_email), email)
    assert problem(answer) == (409, "already-member")
    assert await letters_to(world, email) == []


@pytest.mark.parametrize("email", ["", "ada", "ada@", "@example.com", "a b@example.com", "ada@example.com\nBcc: x@y.z"])
async def test_only_an_address_is_invited(world: World, email: str) -> None:
    tenant = await world.tenant()
    answer = await invite(world, await world.log_in(tenant.owner_email), email)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/email"]


async def test_a_new_person_needs_a_password_that_will_do(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    without = await accept(world, token)
    assert problem(without) == (422, "validation-failed")
    assert pointers(without) == ["/password"]
    assert problem(await accept(world, token, "too short")) == (422, "weak-password")
    assert (await accept(world, token, NEW_PASSWORD)).status_code == 200


# ----------------------------------------------------------------------------------- people who have an account


async def somebody_elsewhere(world: World) -> str:
    """Return the address of an account in another tenant."""
    return await world.member(await world.tenant(), Role.VIEWER)


async def test_who_is_signed_in_accepts_without_a_password(world: World) -> None:
    tenant, email = await world.tenant(), await somebody_elsewhere(world)
    _, token = await invited(world, tenant, email)
    assert (await accept(world, token, headers=await world.log_in(email))).status_code == 200
    assert (await world.log_in(email, tenant=tenant.slug))["Authorization"]


async def test_who_has_an_account_may_accept_with_its_password(world: World) -> None:
    tenant, email = await world.tenant(), await somebody_elsewhere(world)
    _, token = await invited(world, tenant, email)
    assert (await accept(world, token, PASSWORD)).status_code == 200


async def test_p7_the_token_alone_seats_nobody_elses_account(world: World) -> None:
    tenant, email = await world.tenant(), await somebody_elsewhere(world)
    other = await world.log_in(await somebody_elsewhere(world))
    _, token = await invited(world, tenant, email)
    needed = (403, "reauthentication-required")
    assert problem(await accept(world, token)) == needed
    assert problem(await accept(world, token, NEW_PASSWORD)) == needed
    assert problem(await accept(world, token, headers=other)) == needed
    assert problem(await accept(world, token, headers=tenant.live.headers)) == needed
    assert "invitation.accepted" not in await actions(world, tenant.id)
    # The password is still the old one.
    assert (await world.token(username=email, password=PASSWORD)).status_code == 200


async def test_a_credential_that_is_none_is_refused_even_where_none_is_needed(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    answer = await accept(world, token, NEW_PASSWORD, {"Authorization": "Bearer nonsense"})
    assert problem(answer) == (401, "invalid-credentials")


async def test_a9_a_disabled_user_takes_no_seat(world: World) -> None:
    tenant, email = await world.tenant(), await somebody_elsewhere(world)
    _, token = await invited(world, tenant, email)
    async with world._unit() as (tenants, _):
        await tenants.set_disabled(email, disabled=True)
    assert problem(await accept(world, token, PASSWORD)) == (403, "reauthentication-required")


async def test_a9_nobody_sits_down_in_a_suspended_tenant(world: World) -> None:
    tenant = await world.tenant()
    _, token = await invited(world, tenant, somebody(tenant))
    async with world._unit() as (tenants, _):
        await tenants.set_status(tenant.slug, TenantStatus.SUSPENDED)
    assert problem(await accept(world, token, NEW_PASSWORD)) == (403, "tenant-suspended")


async def test_who_became_a_member_meanwhile_is_one_already(world: World) -> None:
    tenant, email = await world.tenant(), await somebody_elsewhere(world)
    _, token = await invited(world, tenant, email)
    async with world._unit() as (tenants, _):
        user = await tenants._unit.users.by_email(email)
        assert user is not None
        await tenants.seat(tenant.id, user.id, Role.BILLING)
    assert problem(await accept(world, token, PASSWORD)) == (409, "already-member")


# ------------------------------------------------------------------------------------------------ who may invite


async def test_a6_nobody_invites_above_their_own_seat(world: World) -> None:
    tenant = await world.tenant()
    admin = await world.log_in(await world.member(tenant, Role.ADMIN))
    assert problem(await invite(world, admin, somebody(tenant), "owner")) == (403, "role-not-grantable")
    assert (await invite(world, admin, somebody(tenant), "admin")).status_code == 201
    narrow = await world.key(tenant, scopes=frozenset({Scope.MEMBERS_WRITE, Scope.USAGE_READ}))
    assert problem(await invite(world, narrow.headers, somebody(tenant), "viewer")) == (403, "role-not-grantable")


async def test_a6_a_key_for_one_model_invites_nobody_to_all_of_them(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(
        tenant, scopes=frozenset(Scope) - {"admin", "usage:all", "usage:adjust", "billing:close"}, models=("iris",)
    )
    assert problem(await invite(world, key.headers, somebody(tenant))) == (403, "scope-exceeds-grantor")


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.BILLING, Role.VIEWER])
async def test_other_members_neither_invite_nor_look(world: World, role: Role) -> None:
    tenant = await world.tenant()
    headers = await world.log_in(await world.member(tenant, role))
    assert problem(await invite(world, headers, somebody(tenant))) == (403, "insufficient-scope")
    assert problem(await world.client.get("/v1/invitations", headers=headers)) == (403, "insufficient-scope")


async def test_a1_another_tenants_invitation_is_not_found(world: World) -> None:
    first, second = await world.tenant(), await world.tenant()
    invitation_id, token = await invited(world, first, somebody(first))
    stranger = await world.log_in(second.owner_email)
    answer = await world.client.delete(f"/v1/invitations/{invitation_id}", headers=stranger)
    assert problem(answer) == (404, "not-found")
    assert (await world.client.get("/v1/invitations", headers=stranger)).json()["data"] == []
    assert (await accept(world, token, NEW_PASSWORD)).status_code == 200


async def test_invitations_are_listed_newest_first_page_by_page(world: World) -> None:
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    emails = [somebody(tenant, f"friend{number}") for number in range(5)]
    for email in emails:
        await invite(world, owner, email)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await world.client.get(f"/v1/invitations?limit=2{cursor}", headers=owner)).json()
        seen.extend(invitation["email"] for invitation in page["data"])
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == emails[::-1]


async def test_a_tenant_invites_only_so_many_an_hour(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant = await world.tenant()
    owner = await world.log_in(tenant.owner_email)
    for _ in range(100):
        assert (await invite(world, owner, somebody(tenant))).status_code == 201
    refused = await invite(world, owner, somebody(tenant, "one-more"))
    assert problem(refused) == (429, "too-many-requests")
    assert int(refused.headers["retry-after"]) > 0
    world.clock.advance(3600)
    owner = await world.log_in(tenant.owner_email)
    assert (await invite(world, owner, somebody(tenant, "one-more"))).status_code == 201
