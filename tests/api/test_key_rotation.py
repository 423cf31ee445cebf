"""Rotating an API key over HTTP, in both shapes: one key, two secrets for a while."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import Response
from sqlalchemy import text

from backend.domain.api_keys import parse_key
from backend.domain.scopes import Role, Scope
from tests.api.conftest import IRIS, KEY_SCOPES, ClockedWorld, Key, TenantUnderTest, World
from tests.api.test_predictions import pointers, problem

pytestmark = pytest.mark.anyio

WEEK_S = 604_800


async def rotate(
    world: World, headers: dict[str, str], key: Key, overlap_seconds: Any = 3600, once: str | None = None
) -> Response:
    extra = {} if once is None else {"Idempotency-Key": once}
    return await world.client.post(
        f"/v1/api-keys/{key.id}/rotate", json={"overlap_seconds": overlap_seconds}, headers=headers | extra
    )


async def rotated(world: World, headers: dict[str, str], key: Key, overlap_seconds: int = 3600) -> tuple[Any, Key]:
    """Rotate a key; return the answer's body and the key with its new secret."""
    answer = await rotate(world, headers, key, overlap_seconds)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body, Key(id=body["id"], secret=body["secret"])


async def owner_of(world: World) -> tuple[TenantUnderTest, dict[str, str]]:
    tenant = await world.tenant()
    return tenant, await world.log_in(tenant.owner_email)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_200_the_same_key_with_a_new_secret(world: World) -> None:
    tenant, owner = await owner_of(world)
    answer = await rotate(world, owner, tenant.live)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    before, after = parse_key(tenant.live.secret), parse_key(body["secret"])
    assert before is not None
    assert after is not None
    assert (body["id"], after.lookup_id, after.environment) == (tenant.live.id, before.lookup_id, before.environment)
    assert after.secret != before.secret
    assert (body["generation"], body["last4"]) == (2, body["secret"][-4:])
    overlap = instant(body["previous"]["valid_until"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < overlap <= timedelta(hours=1)
    shown = await world.client.get(f"/v1/api-keys/{tenant.live.id}", headers=owner)
    assert shown.json() == {name: value for name, value in body.items() if name != "secret"}


async def test_k7_both_secrets_work_during_the_overlap_and_only_the_new_one_after(
    clocked_world: ClockedWorld,
) -> None:
    world = clocked_world
    tenant, owner = await owner_of(world)
    _, new = await rotated(world, owner, tenant.live, 60)
    for key in (tenant.live, new):
        assert (await world.predict(key)).status_code == 200
        assert (await world.client.get("/v1/models", headers=key.headers)).status_code == 200
    world.clock.advance(59)
    assert (await world.predict(tenant.live)).status_code == 200
    world.clock.advance(1)
    assert problem(await world.predict(tenant.live)) == (401, "invalid-credentials")
    answer = await world.client.get("/v1/models", headers=tenant.live.headers)
    assert problem(answer) == (401, "invalid-credentials")
    assert (await world.predict(new)).status_code == 200
    shown = (await world.client.get(f"/v1/api-keys/{tenant.live.id}", headers=owner)).json()
    assert shown["previous"] is None


async def test_k7_without_overlap_the_old_secret_ends_at_once_even_where_it_was_cached(world: World) -> None:
    tenant, owner = await owner_of(world)
    assert (await world.predict(tenant.live)).status_code == 200
    body, new = await rotated(world, owner, tenant.live, 0)
    assert instant(body["previous"]["valid_until"]) <= datetime.now(UTC)
    assert problem(await world.predict(tenant.live)) == (401, "invalid-credentials")
    assert (await world.predict(new)).status_code == 200
    assert problem(await world.predict(tenant.live)) == (401, "invalid-credentials")


async def test_k7_the_new_secret_works_where_the_old_one_is_cached(world: World) -> None:
    tenant, owner = await owner_of(world)
    assert (await world.predict(tenant.live)).status_code == 200
    _, new = await rotated(world, owner, tenant.live)
    assert (await world.predict(new)).status_code == 200


async def test_k7_the_overlap_never_outlives_the_key(world: World) -> None:
    tenant, owner = await owner_of(world)
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    key = await world.key(tenant, expires_at=expires_at)
    body, _ = await rotated(world, owner, key, WEEK_S)
    assert body["previous"]["valid_until"] == body["expires_at"]


async def test_k7_a_revoked_key_works_with_neither_secret(world: World) -> None:
    tenant, owner = await owner_of(world)
    _, new = await rotated(world, owner, tenant.live)
    await world.client.post(f"/v1/api-keys/{tenant.live.id}/revoke", headers=owner)
    for key in (tenant.live, new):
        assert problem(await world.predict(key)) == (401, "key-revoked")


async def test_409_while_the_last_overlap_is_running(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant, owner = await owner_of(world)
    _, second = await rotated(world, owner, tenant.live, 60)
    assert problem(await rotate(world, owner, tenant.live)) == (409, "rotation-in-progress")
    world.clock.advance(60)
    body, third = await rotated(world, owner, tenant.live, 60)
    assert body["generation"] == 3
    assert problem(await world.predict(tenant.live)) == (401, "invalid-credentials")
    for key in (second, third):
        assert (await world.predict(key)).status_code == 200


async def test_409_an_expired_or_revoked_key_gets_no_new_secret(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant, owner = await owner_of(world)
    short_lived = await world.key(tenant, expires_at=world.clock.now() + timedelta(seconds=10))
    world.clock.advance(10)
    await world.client.post(f"/v1/api-keys/{tenant.live.id}/revoke", headers=owner)
    for key in (short_lived, tenant.live):
        assert problem(await rotate(world, owner, key)) == (409, "key-expired")


async def test_k7_the_same_idempotency_key_twice_is_one_rotation(world: World) -> None:
    tenant, owner = await owner_of(world)
    first = await rotate(world, owner, tenant.live, once="r1")
    second = await rotate(world, owner, tenant.live, once="r1")
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["cache-control"] == "no-store"
    assert first.json()["generation"] == 2
    assert problem(await rotate(world, owner, tenant.live, once="r2")) == (409, "rotation-in-progress")
    assert problem(await rotate(world, owner, tenant.live, 60, once="r1")) == (422, "idempotency-key-reused")


async def test_k7_a_key_may_rotate_itself_and_repeat_that_with_either_secret(world: World) -> None:
    tenant = await world.tenant()
    key = await world.key(tenant, scopes=KEY_SCOPES | {Scope.KEYS_WRITE})
    first = await rotate(world, key.headers, key, once="self")
    new = Key(id=key.id, secret=first.json()["secret"])
    for headers in (key.headers, new.headers):
        again = await rotate(world, headers, key, once="self")
        assert again.content == first.content


async def test_k7_concurrent_rotations_are_one(world: World) -> None:
    tenant, owner = await owner_of(world)
    answers = await asyncio.gather(*(rotate(world, owner, tenant.live) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert {problem(answer)[1] for answer in answers if answer.status_code == 409} == {"rotation-in-progress"}


async def test_k7_a_rotation_that_is_not_committed_leaves_the_old_secret_valid(world: World) -> None:
    tenant, owner = await owner_of(world)
    # The whole rotation is one transaction; what goes wrong inside it undoes everything.
    async with world.resources.store.unit_of_work() as unit:
        before = await unit.api_keys.get(tenant.id, tenant.live.id)  # type: ignore[arg-type]
    engine = world.resources.store.engine  # type: ignore[attr-defined]
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        answer = await rotate(world, owner, tenant.live, "an hour")
    assert problem(answer) == (422, "validation-failed")
    async with world.resources.store.unit_of_work() as unit:
        assert await unit.api_keys.get(tenant.id, tenant.live.id) == before  # type: ignore[arg-type]
    assert (await world.predict(tenant.live)).status_code == 200


async def test_last_use_is_told_apart_by_secret(clocked_world: ClockedWorld) -> None:
    world = clocked_world
    tenant, owner = await owner_of(world)

    async def used() -> tuple[str | None, str | None]:
        await world.resources.key_use.flush()
        shown = (await world.client.get(f"/v1/api-keys/{tenant.live.id}", headers=owner)).json()
        return shown["last_used_at"], shown["previous"] and shown["previous"]["last_used_at"]

    def now() -> str:
        return world.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    assert await used() == (None, None)
    await world.predict(tenant.live)
    at_first = now()
    assert await used() == (at_first, None)
    _, new = await rotated(world, owner, tenant.live, 600)
    assert await used() == (at_first, at_first)
    world.clock.advance(10)
    await world.predict(new)
    with_new = now()
    assert await used() == (with_new, at_first)
    world.clock.advance(10)
    await world.predict(tenant.live)
    with_old = now()
    assert await used() == (with_old, with_old)


async def test_a6_nobody_gets_the_secret_of_a_key_that_is_wider_than_they_are(world: World) -> None:
    tenant = await world.tenant()
    wide = await world.key(tenant, scopes=frozenset({Scope.TENANT_WRITE}))
    developer = await world.log_in(await world.member(tenant, Role.DEVELOPER))
    assert problem(await rotate(world, developer, wide)) == (403, "scope-exceeds-grantor")
    assert (await rotate(world, developer, tenant.live)).status_code == 200


@pytest.mark.parametrize("overlap", [-1, WEEK_S + 1, 1.5, "60", None, True])
async def test_422_an_overlap_that_makes_no_sense(world: World, overlap: Any) -> None:
    tenant, owner = await owner_of(world)
    answer = await rotate(world, owner, tenant.live, overlap)
    assert problem(answer) == (422, "validation-failed")
    assert pointers(answer) == ["/overlap_seconds"]


async def test_403_without_the_scope(world: World) -> None:
    tenant = await world.tenant()
    assert problem(await rotate(world, tenant.live.headers, tenant.live)) == (403, "insufficient-scope")


async def test_a1_404_another_tenants_key(world: World) -> None:
    tenant, _ = await owner_of(world)
    _, other = await owner_of(world)
    assert problem(await rotate(world, other, tenant.live)) == (404, "not-found")


async def test_g1_k3_one_audit_record_a_rotation_without_either_secret(world: World) -> None:
    tenant, owner = await owner_of(world)
    _, new = await rotated(world, owner, tenant.live)
    answer = await world.client.get("/v1/audit-log", params={"target_id": tenant.live.id}, headers=owner)
    [record, _] = answer.json()["data"]
    assert record["action"] == "api-key.rotated"
    assert (record["before"]["generation"], record["after"]["generation"]) == (1, 2)
    for key in (tenant.live, new):
        parsed = parse_key(key.secret)
        assert parsed is not None
        assert parsed.secret not in answer.text


async def test_k4_a_wrong_secret_of_a_rotated_key_is_nobodys(world: World) -> None:
    tenant, owner = await owner_of(world)
    _, new = await rotated(world, owner, tenant.live)
    _, other = await rotated(world, owner, tenant.test)
    mixed = [new.secret[:21] + tenant.test.secret[21:], new.secret.replace("fc_live", "fc_test"), other.secret[::-1]]
    for secret in mixed:
        answer = await world.client.post(
            "/v1/predict", json={"model": "iris", "inputs": IRIS}, headers={"X-API-Key": secret}
        )
        assert problem(answer) == (401, "invalid-credentials")
